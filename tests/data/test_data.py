"""Datasets: shapes, types, determinism, and the order in which samples are seen."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from workbench.data.base import FILES, DatasetSummary, sample_order
from workbench.errors import SpecError
from workbench.plan.resolve import plan
from workbench.registry import DATASETS
from workbench.runtime.batches import Batches
from workbench.spec import RunSpec


def make(name: str, options: dict[str, Any]) -> Any:
    plugin = DATASETS.get(name)
    return plugin(plugin.Options(**options))


INDICES = np.array([3, 0, 41])


def token_stream(name: str, options: dict[str, Any]) -> Any:
    """All inputs of a token dataset, end to end."""
    samples = make(name, options).load()
    return samples.batch(np.arange(len(samples)))[0].ravel()


class Given:
    """A dataset that is loaded as it is."""

    def __init__(self, num_samples: int, batch: Any) -> None:
        self.num_samples, self.batch = num_samples, batch

    def summary(self) -> DatasetSummary:
        return DatasetSummary("features", (64,), 10, 20)

    def load(self) -> Any:
        return self

    def __len__(self) -> int:
        return self.num_samples


@pytest.mark.parametrize(
    ("num_samples", "batch", "message"),
    [
        (20, lambda i: (np.zeros((len(i), 64)), np.zeros(len(i))), ""),
        (19, lambda i: (np.zeros((len(i), 64)), np.zeros(len(i))), r"summary\(\) declares 20 samples, but load\(\) returned 19"),
        (20, lambda i: (np.zeros((3, 64)), np.zeros(4)), "got 4 indices, but returned 3 inputs and 4 targets"),
        (20, lambda i: (np.zeros((4, 63)), np.zeros(4)), r"inputs of shape \(64,\), but batch\(\) returned \(63,\)"),
        (20, lambda i: (np.zeros((4, 64)), np.zeros((4, *[1] * (15 in i)))), r"first returned targets of shape \(1?,?\), then"),
        (20, lambda i: (np.array([[0.0]] * 3 + [None], dtype=object), np.zeros(4)), "samples of different shapes"),
        (20, lambda i: [np.zeros((4, 64)), np.zeros(4)], "two numpy arrays, inputs and targets, but returned list"),
    ],
)
def test_a_dataset_that_gives_other_samples_than_were_asked_for_is_refused(num_samples: int, batch: Any, message: str) -> None:
    planned = plan(RunSpec(model="mlp", train={"global_batch_size": 8}, split={"data": 2}))
    given = dataclasses.replace(planned, dataset=Given(num_samples, batch))

    def read() -> None:
        batches = Batches(given, torch.device("cpu"), torch.float32)
        for step in range(5):
            assert len(batches.step_batch(step, (0, 2))[0]) == 4

    with pytest.raises(SpecError, match=f"^dataset: digits: .*{message}") if message else contextlib.nullcontext():
        read()


@pytest.mark.parametrize("options", [{}, {"tokenizer": "characters"}])
def test_the_target_of_the_last_token_begins_the_next_sample(options: dict[str, Any]) -> None:
    inputs, targets = make("text", {"sequence_length": 32, **options}).load().batch(np.array([4, 5]))

    assert targets[0, -1] == inputs[1, 0]


def test_digits_are_intensities_between_0_and_1_of_all_ten_classes() -> None:
    features, labels = make("digits", {}).load().batch(np.arange(1797))

    assert (features.min(), features.max()) == (0, 1)
    assert set(labels.tolist()) == set(range(10))


def test_an_image_is_its_digit_with_every_pixel_repeated() -> None:
    flat, labels = make("digits", {}).load().batch(INDICES)

    images, same_labels = make("digit_images", {"scale": 3}).load().batch(INDICES)

    assert np.array_equal(images[:, 0, 1::3, 2::3].reshape(len(INDICES), -1), flat)
    assert np.array_equal(images, np.kron(images[:, :, ::3, ::3], np.ones((3, 3), np.float32)))
    assert np.array_equal(labels, same_labels)


@pytest.mark.parametrize(
    ("name", "options"), [("sunspots", {"length": 24}), ("synthetic", {"kind": "series", "sequence_length": 16})]
)
def test_the_target_of_a_step_is_the_next_step(name: str, options: dict[str, Any]) -> None:
    inputs, targets = make(name, options).load().batch(INDICES)

    assert np.array_equal(targets[:, :-1], inputs[:, 1:])
    assert not np.array_equal(targets[:, -1], inputs[:, -1])


def test_sunspots_are_the_files_own_standardised_over_the_whole_series() -> None:
    series = np.loadtxt(FILES / "sunspots.csv", delimiter=",", skiprows=1, usecols=1)

    inputs, targets = make("sunspots", {"length": 10}).load().batch(np.array([0, len(series) - 11]))

    assert (series[0], series[-1]) == (58.0, 2.6)
    back = np.concatenate([inputs, targets[:, -1:]], axis=1)[:, :, 0] * series.std() + series.mean()
    assert back == pytest.approx(np.stack([series[:11], series[-11:]]), abs=1e-3)


def test_a_window_longer_than_the_series_is_refused() -> None:
    with pytest.raises(SpecError, match="exceed the 3126 months of the series"):
        make("sunspots", {"length": 3126}).summary()


def test_a_synthetic_series_follows_from_its_last_two_steps() -> None:
    options = {"kind": "series", "num_samples": 20, "num_features": 3}
    values, _ = make("synthetic", options).load().batch(np.arange(20))

    for feature in range(3):  # a wave obeys x[t+1] = 2 cos(frequency) x[t] − x[t−1]
        wave = values[:, :, feature]
        before, factor = wave[:, 1:-1], np.linalg.lstsq(wave[:, 1:-1].reshape(-1, 1), (wave[:, 2:] + wave[:, :-2]).ravel())[0]
        assert factor * before - wave[:, :-2] == pytest.approx(wave[:, 2:], abs=1e-4)


def test_the_first_bytes_are_the_files_own() -> None:
    import gzip

    inputs, _ = make("text", {"sequence_length": 32}).load().batch(np.array([0, 1]))

    assert bytes(inputs.ravel().tolist()) == gzip.decompress((FILES / "jargon.txt.gz").read_bytes())[:64]


def test_the_vocabulary_of_characters_is_a_multiple_of_64() -> None:
    assert make("text", {"tokenizer": "characters"}).summary().num_classes % 64 == 0


def test_synthetic_tokens_mostly_follow_one_permutation() -> None:
    stream = token_stream("synthetic", {"num_samples": 200, "vocabulary_size": 16})
    pairs = np.zeros((16, 16))

    np.add.at(pairs, (stream[:-1], stream[1:]), 1)

    assert sorted(pairs.argmax(axis=1)) == list(range(16))
    assert 0.8 < pairs.max(axis=1).sum() / pairs.sum() < 1


@pytest.mark.parametrize(
    "shape", [{"kind": "features", "num_features": 12}, {"kind": "images", "channels": 3, "height": 2, "width": 2}]
)
def test_synthetic_labels_come_from_a_linear_map(shape: dict[str, Any]) -> None:
    options = {**shape, "num_samples": 2000, "num_classes": 3}
    features, labels = make("synthetic", options).load().batch(np.arange(2000))
    features = features.reshape(2000, 12)

    fitted, *_ = np.linalg.lstsq(features[:1000], np.eye(3)[labels[:1000]], rcond=None)

    assert ((features[1000:] @ fitted).argmax(axis=1) == labels[1000:]).mean() > 0.8


@pytest.mark.parametrize("kind", ["tokens", "features", "images", "series"])
def test_more_synthetic_samples_leave_the_first_ones_as_they_were(kind: str) -> None:
    few, many = (make("synthetic", {"kind": kind, "num_samples": count}).load().batch(np.arange(8)) for count in (8, 64))

    assert all(np.array_equal(a, b) for a, b in zip(few, many, strict=True))


def test_another_seed_gives_other_synthetic_samples() -> None:
    one, two = (token_stream("synthetic", {"num_samples": 8, "seed": seed}) for seed in (0, 1))

    assert not np.array_equal(one, two)


@pytest.mark.parametrize(("num_samples", "batch_size"), [(12, 4), (10, 4), (5, 12)])
def test_every_epoch_is_a_permutation_even_where_batches_wrap(num_samples: int, batch_size: int) -> None:
    order = np.concatenate([sample_order(7, num_samples, step, batch_size) for step in range(30)])
    epochs = order[: len(order) // num_samples * num_samples].reshape(-1, num_samples)

    assert order.dtype == np.int64
    assert (np.sort(epochs, axis=1) == np.arange(num_samples)).all()
    assert len({tuple(epoch) for epoch in epochs.tolist()}) > 1


def test_the_order_is_decided_by_seed_and_step() -> None:
    assert np.array_equal(sample_order(1, 100, 3, 20), sample_order(1, 100, 3, 20))
    assert not np.array_equal(sample_order(1, 100, 3, 20), sample_order(2, 100, 3, 20))
    assert not np.array_equal(sample_order(1, 100, 3, 20), sample_order(1, 100, 4, 20))


def test_the_order_does_not_depend_on_how_it_is_cut_into_batches() -> None:
    whole = sample_order(1, 10, 0, 24)

    assert np.array_equal(whole, np.concatenate([sample_order(1, 10, step, 6) for step in range(4)]))


def test_finding_the_datasets_imports_neither_numpy_nor_torch() -> None:
    # A fresh interpreter, because this one has numpy already.
    look = "import sys; from workbench.registry import DATASETS; DATASETS.names()"
    code = f"{look}; print({{'numpy', 'torch'}} & set(sys.modules))"

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert found.strip() == "set()"
