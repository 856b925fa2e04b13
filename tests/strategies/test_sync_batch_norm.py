"""Synchronized batch norm: what plain torch computes of the whole batch, on every worker its part."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests.helpers import cases
from workbench.errors import SplitError
from workbench.plan import compatibility
from workbench.plan.resolve import plan
from workbench.runtime.tracing.recorder import Recorder
from workbench.spec import RunSpec
from workbench.strategies.data.sync_batch_norm import synchronize_batch_norms
from workbench.testing.workers import run_in_workers

LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "features": (lambda: nn.BatchNorm1d(3), (8, 3)),
    "sequences": (lambda: nn.BatchNorm1d(3, affine=False), (8, 3, 5)),
    "images": (lambda: nn.BatchNorm2d(3, momentum=None), (8, 3, 4, 4)),
    "images without running statistics": (lambda: nn.BatchNorm2d(3, track_running_stats=False), (8, 3, 4, 4)),
}


def differences(rank: int, recorder: Recorder, control: Any, name: str) -> dict[str, float]:
    """Largest differences from the layer on the whole batch, over two steps and an evaluation."""
    make, shape = LAYERS[name]
    size, found = dist.get_world_size(), dict[str, float]()
    whole, split = make().double(), make().double()
    synchronize_batch_norms(split, dist.group.WORLD)

    def compare(what: str, a: Tensor | None, b: Tensor | None) -> None:
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            found[what] = max(found.get(what, 0.0), float((a - b).abs().max()))

    for step in range(2):
        torch.manual_seed(step)
        x = 1e3 + torch.randn(shape, dtype=torch.float64)  # a mean that E[x²] − E[x]² would drown in
        upstream = torch.randn(shape, dtype=torch.float64)
        x[: len(x) // size] += 5  # one worker's samples are unlike the others'
        mine = x.chunk(size)[rank].clone().requires_grad_()
        x.requires_grad_()
        outputs, part = whole(x), split(mine)
        outputs.backward(upstream)
        part.backward(upstream.chunk(size)[rank])
        compare("outputs", outputs.chunk(size)[rank], part)
        assert x.grad is not None
        compare("gradient of the input", x.grad.chunk(size)[rank], mine.grad)
    for (parameter, a), b in zip(whole.named_parameters(), split.parameters(), strict=True):
        assert b.grad is not None
        dist.all_reduce(b.grad)  # each worker has its samples' part
        compare(f"gradient of {parameter}", a.grad, b.grad)
    for (buffer, a), b in zip(whole.named_buffers(), split.buffers(), strict=True):
        compare(buffer, a, b)
    whole.eval()
    split.eval()
    compare("evaluation", whole(x).chunk(size)[rank], split(mine))
    return found


@pytest.mark.parametrize("name", LAYERS)
def test_it_is_batch_norm_of_the_whole_batch(name: str) -> None:
    for found in run_in_workers(2, differences, name):
        assert len(found) >= 3
        assert max(found.values()) < 1e-9, found


CNN = compatibility.models()["cnn, batch norm"]


def spec_of(split: dict[str, Any], **parts: Any) -> dict[str, Any]:
    spec = compatibility.cases({"": {**split, "data": {"size": 2, "sync_batch_norm": True}}}, {"": CNN}, ["train"])[0].spec
    return {**spec, **parts, "train": {**compatibility.TRAIN, **parts.get("train", {})}}


@pytest.mark.parametrize(
    ("split", "parts"),
    [
        ({"pipeline": {"size": 2, "num_microbatches": 2}}, {}),  # corresponding microbatches of both replicas are one
        ({}, {"train": {"checkpointing": "full"}}),
        ({}, {"train": {"precision": "bf16"}}),
    ],
    ids=str,
)
def test_a_split_is_one_worker_and_its_formulas(split: dict[str, Any], parts: dict[str, Any]) -> None:
    cases.assert_split_as_by_formula(spec_of(split, **parts))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": compatibility.models()["cnn"]["model"]}, "cnn has no batch norm to synchronize"),
        ({"mode": "inference"}, "inference uses running statistics"),
        ({"split": {"tensor": {"size": 2, "cut": {"convolution": "rows"}}, "data": {"size": 2, "sync_batch_norm": True}}},
         "convolutions cut by rows"),
    ],
)  # fmt: skip
def test_what_it_cannot_serve_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SplitError, match=message) as error:
        plan(RunSpec(**{**spec_of({}), **change}))
    assert error.value.field == "split.data.sync_batch_norm"
