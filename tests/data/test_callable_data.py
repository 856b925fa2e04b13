"""A user's own datasets by name: what their samples are, what is refused, and that a run keeps their code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import workbench as wb
from tests.helpers import cases
from workbench.analysis.work import different_work
from workbench.code_parts import DATASET
from workbench.data.user.callable import UserData, UserDataOptions
from workbench.errors import SpecError
from workbench.plan.resolve import plan
from workbench.runtime.batches import Batches
from workbench.spec.files import load

DATA = """
import itertools
import torch
from scale import SCALE
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

class Pairs(Dataset):
    classes = ["hen", "dog", "cat"]
    def __init__(self, count: int = 40):
        self.count = count
    def __len__(self):
        return self.count
    def __getitem__(self, index):
        return torch.full((4,), float(index * SCALE)), index % 2

class Named(Pairs):
    def __getitem__(self, index):
        return {"ids": torch.tensor([index, 2]), "labels": torch.tensor([2, index])}

class Stream(IterableDataset):
    def __iter__(self):
        return (Pairs()[index] for index in range(10))

class Shuffled(IterableDataset):
    # ten samples, each epoch in another order
    def __iter__(self):
        return (Pairs()[index] for index in torch.randperm(10).tolist())

def generated():
    for index in range(10):
        yield Pairs()[index]

def endless():
    for index in itertools.count():
        yield torch.full((4,), float(index % 7)), index % 3

def collated():
    return DataLoader(Stream(), batch_size=3, collate_fn=collate)

def empty():
    return iter(())

def drawn():
    import os
    for _ in range(10):
        yield torch.full((4,), float(os.urandom(1)[0])), 0

def broken():
    yield Pairs()[0]
    yield {}["missing"]

def padded_apart():
    def pad(samples):
        rows = torch.nn.utils.rnn.pad_sequence([x for x, _ in samples], batch_first=True)
        return rows, torch.zeros(len(samples), dtype=torch.int64)
    return DataLoader([(torch.ones(1 + index), 0) for index in range(9)], collate_fn=pad)

class Raises(Pairs):
    def __getitem__(self, index):
        return self.missing

def values():
    return TensorDataset(torch.rand(30, 4, dtype=torch.double), torch.arange(30.0))

def collate(pairs):
    return torch.stack([x for x, _ in pairs]) * 2, torch.tensor([y for _, y in pairs])

def doubled():
    return DataLoader(Pairs(), collate_fn=collate)

def whole():
    return torch.rand(30, 3, 8, 8), torch.arange(30) % 5

def number():
    return 7

def ragged():
    return [(torch.zeros(1 + index), 0) for index in range(9)]

def triples():
    return [(torch.zeros(1), 0, 0)] * 9
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data.py").write_text(DATA)
    (tmp_path / "scale.py").write_text("SCALE = 1")
    return tmp_path


def named(folder: Path, name: str, **options: Any) -> UserData:
    return UserData(UserDataOptions(name=f"{folder}/data.py:{name}", **options))


def test_the_kind_of_samples_is_found_without_loading_them_here(folder: Path) -> None:
    pairs = named(folder, "Pairs", options={"count": 12}).summary()
    assert (pairs.kind, pairs.input_shape, pairs.num_classes, pairs.num_samples) == ("features", (4,), 3, 12)
    values, whole = named(folder, "values").summary(), named(folder, "whole").summary()
    assert (values.target, values.value_shape) == ("values", (1,))
    assert (whole.kind, whole.input_shape, whole.num_classes) == ("images", (3, 8, 8), 5)
    of_names = named(folder, "Named").summary()
    assert [(t.path, t.shape, t.dtype) for t in of_names.inputs] == [("ids", (2,), "int64"), ("labels", (2,), "int64")]
    assert of_names.has_structured_targets


def test_samples_are_collated_by_number(folder: Path) -> None:
    features, labels = named(folder, "Pairs").load().batch(np.array([3, 0]))
    assert (features[:, 0].tolist(), labels.tolist()) == ([3.0, 0.0], [1, 0])
    assert named(folder, "doubled").load().batch(np.array([3]))[0].tolist() == [[6.0] * 4]
    inputs, targets = named(folder, "Named").load().batch(np.array([5]))
    assert (inputs["ids"].tolist(), targets.tolist()) == ([[5, 2]], [[2, 5]])
    assert len(named(folder, "Stream", num_samples=6).load()) == 6
    first, again = (named(folder, "whole").load().batch(np.array([1]))[0] for _ in range(2))
    assert np.array_equal(first, again)  # drawn anew, from the same seed


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("empty", {}, "data.py:empty has no samples"),
        ("drawn", {}, "data.py:drawn must return the same samples in the same order each time it is read"),
        ("broken", {}, r"reading samples of data.py:broken failed in data.py, line \d+: KeyError"),
        ("padded_apart", {}, "must return samples of one shape, but 0 has"),
        ("Stream", {"num_samples": 11}, "dataset.num_samples: data.py:Stream has 10 samples, but got 11"),
        ("Raises", {}, r"reading 40 samples of data.py:Raises failed in data.py, line \d+: AttributeError"),
        ("number", {}, "must return a dataset, a data loader, or inputs and targets, but returned int"),
        ("ragged", {}, "reading 9 samples of data.py:ragged failed: RuntimeError: stack expects each tensor to be equal size"),
        ("triples", {}, "must be a pair of inputs and targets, or a dict, but has 3 parts"),
        ("Pair", {}, "dataset.name: data.py has no 'Pair'; did you mean 'Pairs'"),
        ("Pairs", {"options": {"number": 3}}, "dataset.options.number: data.py:Pairs has no argument 'number'"),
    ],
)
def test_what_is_no_dataset_is_refused_in_a_sentence(folder: Path, name: str, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        named(folder, name, **options).summary()


def batches(data: UserData, size: int) -> Batches:
    train = {"num_steps": 1, "global_batch_size": size}
    planned = plan(wb.RunSpec(model="mlp", dataset=data.options, train=train))
    return Batches(planned, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("name", ["Stream", "generated", "Shuffled"])
def test_each_sample_of_a_stream_is_read_once_per_epoch_over_all_workers(folder: Path, name: str) -> None:
    data = named(folder, name)
    assert (data.summary().num_samples, data.summary().is_streamed) == (10, True)
    whole, workers = batches(data, 4), [batches(data, 4) for _ in range(2)]
    read: list[float] = []
    for step in range(5):  # two epochs, whose border lies inside a global batch
        inputs = whole.step_batch(step)[0]
        torch.manual_seed(step)  # what else a worker draws
        parts = [worker.step_batch(step, (index, 2))[0] for index, worker in enumerate(workers)]
        assert torch.equal(torch.cat(parts), inputs)
        read += inputs[:, 0].tolist()
    assert sorted(read[:10]) == sorted(read[10:]) == list(map(float, range(10)))
    assert (read[:10] == read[10:]) == (name != "Shuffled")


def test_a_stream_without_an_end_keeps_one_global_batch(folder: Path) -> None:
    data = named(folder, "endless")
    assert (data.summary().num_samples, data.summary().num_classes) == (0, 3)
    stream: Any = data.load()
    for step in range(200):
        positions = stream.advance(step * 8, 8)
        assert stream.batch(positions[4:])[0][:, 0].tolist() == [float(p % 7) for p in positions[4:]]
        assert len(stream._samples) == 8
    with pytest.raises(AssertionError, match="a stream is read forwards"):
        stream.advance(0, 8)


def test_a_data_loader_of_a_stream_collates(folder: Path) -> None:
    stream: Any = named(folder, "collated").load()
    assert stream.batch(stream.advance(0, 4))[0][:, 0].tolist() == [0.0, 2.0, 4.0, 6.0]


def test_a_short_stream_does_not_fill_a_batch(folder: Path) -> None:
    with pytest.raises(SpecError, match=r"train\.global_batch_size: 16 exceeds the 10 samples of the dataset"):
        batches(named(folder, "Stream"), 16)


def test_a_split_of_a_stream_equals_one_worker(folder: Path) -> None:
    name = f"{folder}/data.py:endless"
    cases.assert_split_as_by_formula(
        {"model": "mlp", "dataset": name, "split": {"data": 2}, "train": {"num_steps": 2, "global_batch_size": 6}}
    )


def test_a_dataset_of_a_session_is_live(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_HOME", str(folder / "store"))
    inputs, targets = torch.rand(20, 4, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 3
    data = wb.UserData(TensorDataset(inputs, targets))
    train = {"num_steps": 1, "num_warmup_steps": 0, "global_batch_size": 4}
    run = wb.run(wb.RunSpec(model="mlp", dataset=data, split={"data": 2}, train=train, baseline={"mode": "none"}))
    assert run.record.dataset == "live:TensorDataset"
    assert run.row()["parity_verdict"] == "equal"
    again = load(run.directory.spec_path)
    assert plan(again).dataset.load().batch(np.array([7]))[0].tolist() == inputs[7:8].tolist()
    assert wb.UserData(TensorDataset).name == "torch.utils.data.dataset:TensorDataset"
    with pytest.raises(SpecError, match="TensorDataset is built already and takes no arguments, but got width"):
        wb.UserData(TensorDataset(inputs), width=3)


def test_a_run_keeps_the_code_of_its_dataset_and_repeats_from_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_HOME", str(folder / "store"))
    monkeypatch.chdir(folder)
    train = {"num_steps": 1, "num_warmup_steps": 0}
    spec = wb.RunSpec(model="mlp", dataset="data.py:Pairs", train=train, baseline={"mode": "none"})
    run = wb.run(spec)
    code = run.directory.code(DATASET)
    assert code is not None
    assert sorted(code.files) == ["data.py", "scale.py"]
    assert run.record.dataset == "data.py:Pairs"
    (folder / "scale.py").write_text("SCALE = 3")
    again = wb.run(load(run.directory.spec_path))
    assert again.directory.code(DATASET) == code
    other = wb.run(spec)
    assert "code of the dataset" in str(different_work([run, other]))
    (run.directory.path / "dataset_code" / "scale.py").write_text("SCALE = 5")
    with pytest.raises(SpecError, match=r"recorded code of data.py:Pairs has changed: scale.py"):
        plan(load(run.directory.spec_path))
