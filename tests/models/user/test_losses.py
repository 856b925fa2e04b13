"""Losses of a user's own: how they are reduced is found, and splits weight their pieces accordingly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from tests.models.user import zoo
from tests.models.user.test_splits import PIECES
from workbench.errors import SpecError
from workbench.models.user.loss_modules import NUM_SAMPLES, reduction_of, weight_of
from workbench.plan import compatibility
from workbench.plan.resolve import plan
from workbench.spec import RunSpec
from workbench.testing.conformance import assert_conforms

ZOO = Path(zoo.__file__)
SCORES = torch.randn(NUM_SAMPLES, 6, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.randint(10, (NUM_SAMPLES, 6), generator=torch.Generator().manual_seed(1))
WEIGHTS = torch.arange(1.0, 11.0, dtype=torch.float64)


def next_token_loss(scores: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(scores[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


@pytest.mark.parametrize(
    ("loss", "reduction"),
    [
        (lambda scores, labels: cross_entropy(scores.flatten(0, 1), labels.flatten()), "targets"),
        (lambda scores, labels: cross_entropy(scores.flatten(0, 1), labels.flatten(), reduction="sum"), "sum"),
        (next_token_loss, "next targets"),
        (lambda scores, labels: cross_entropy(scores.mean(1), labels[:, -1]), "mean"),
        (lambda scores, labels: mse_loss(scores, torch.zeros_like(scores)), "mean"),
        (lambda scores, labels: cross_entropy(scores.flatten(0, 1), labels.flatten(), WEIGHTS), "batch"),  # of class weights
        (lambda scores, labels: (scores[:, 0] @ scores[:, 0].T).logsumexp(1).mean(), "batch"),
    ],
)
def test_the_reduction_of_a_loss_is_found(loss: Callable[[Tensor, Tensor], Tensor], reduction: str) -> None:
    assert reduction_of(lambda pair: loss(*pair), (SCORES, LABELS), lambda pair: pair[1]) == reduction


def test_weights_count_what_the_loss_counts() -> None:
    labels = torch.tensor([[1, -100, 3], [-100, -100, 2]])
    assert [weight_of(kind, labels) for kind in ("mean", "targets", "next targets", "sum", "batch")] == [2, 3, 2, 1, 2]


def name_of(own: Callable[..., Any]) -> str:
    return f"{ZOO}:{own.__name__}"


def spec_of(model: type, dataset: Any, split: dict[str, Any], loss: Callable[..., Tensor] | str = "") -> dict[str, Any]:
    return {
        "model": {"name": name_of(model), "loss": loss if isinstance(loss, str) else name_of(loss)},
        "dataset": dataset,
        "split": split,
        "train": {**compatibility.TRAIN, "num_warmup_steps": 1},
        "measure": compatibility.MEASURE,
        "launch": {"device": "cpu"},
    }


@pytest.fixture(scope="module")
def padded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A dataset of tokens, masks and labels of different lengths."""
    folder, random = tmp_path_factory.mktemp("tokens"), np.random.default_rng(0)
    ids = [random.integers(20, size=length).tolist() for length in random.integers(1, 7, 40)]
    rows = pa.table({"ids": ids, "mask": [[1.0] * len(row) for row in ids], "labels": ids})
    with pa.OSFile(str(folder / "data.arrow"), "wb") as file, pa.ipc.new_file(file, rows.schema) as writer:
        writer.write_table(rows)
    return {"name": str(folder / "data.arrow"), "inputs": ["ids", "mask", "labels"], "targets": ["labels"], "length": 6}


@pytest.mark.parametrize(
    "split",
    [
        pytest.param({"data": 2, "pipeline": PIECES}, id="dp2 · pp2"),
        pytest.param({"fsdp": {"size": 2, "num_accumulation_steps": 2}}, marks=pytest.mark.cross, id="fsdp2, accumulated"),
        pytest.param({"layer": 2}, marks=pytest.mark.cross, id="layer2"),
        pytest.param({"pipeline": {**PIECES, "schedule": "zbv_zero_bubble"}}, marks=pytest.mark.cross, id="zbv"),
    ],
)
def test_a_module_with_labels_of_different_lengths_is_one_worker(padded: dict[str, Any], split: dict[str, Any]) -> None:
    assert_conforms(spec_of(zoo.LabelsInside, padded, split))


@pytest.mark.parametrize(
    ("loss", "split"),
    [
        pytest.param(zoo.sum_loss, {"data": 2, "pipeline": PIECES}, id="sum, dp2 · pp2"),
        pytest.param(zoo.mean_loss, {"pipeline": PIECES}, marks=pytest.mark.cross, id="mean, pp2"),
        pytest.param(zoo.mean_loss, {"fsdp": 2}, marks=pytest.mark.cross, id="mean, fsdp2"),
        pytest.param(zoo.contrastive_loss, {"layer": 2}, marks=pytest.mark.slow, id="contrastive, layer2"),
        pytest.param(zoo.contrastive_loss, {"fsdp": 2}, marks=pytest.mark.cross, id="contrastive, fsdp2"),
    ],
)
def test_a_split_with_a_loss_of_ones_own_is_one_worker(loss: Callable[..., Tensor], split: dict[str, Any]) -> None:
    assert_conforms(spec_of(zoo.TwoOutputs, "digits", split, loss=loss))


def test_the_summary_says_how_the_loss_is_reduced(padded: dict[str, Any]) -> None:
    def reduction(model: type, dataset: Any, loss: Callable[..., Tensor] | str = "") -> str | None:
        return plan(RunSpec(**spec_of(model, dataset, {}, loss))).full_model.loss_reduction

    assert reduction(zoo.LabelsInside, padded) == "targets"
    with_dropout = spec_of(zoo.LabelsInside, padded, {})
    with_dropout["model"]["options"] = {"dropout": 0.5}
    assert plan(RunSpec(**with_dropout)).full_model.loss_reduction == "targets"
    assert reduction(zoo.TwoOutputs, "digits", loss=zoo.sum_loss) == "sum"
    assert reduction(zoo.TwoOutputs, "digits", loss=zoo.contrastive_loss) == "batch"


@pytest.mark.parametrize(
    ("loss", "sentence"),
    [
        (zoo.no_scalar, r"must return the loss, a scalar tensor of floating point, but returned a tensor of shape \(2,\)"),
        (zoo.raises, r"zoo.py:raises\(outputs, targets\) failed in zoo.py, line \d+: KeyError: 'nothing'"),
        (f"{ZOO}:sum_lost", r"has no 'sum_lost'; did you mean 'sum_loss'"),
        ("other/zoo.py:sum_loss", "model.loss: must be a file in"),
        ("torch.nn.functional:mse_loss", "model.loss: must be a file in"),
        ("sum_loss", "model.loss: must be PATH.py:CALLABLE or package.module:CALLABLE, but"),
    ],
)
def test_a_wrong_loss_is_refused_in_a_sentence(loss: Callable[..., Tensor] | str, sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        plan(RunSpec(**spec_of(zoo.TwoOutputs, "digits", {}, loss=loss)))
