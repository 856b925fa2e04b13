"""Mixed precision: plain torch's losses on one worker, formulas and parity in splits, what cannot be."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

import pytest
import torch

from workbench.errors import SpecError
from workbench.plan import compatibility
from workbench.plan.memory import expected_memory
from workbench.plan.resolve import plan
from workbench.runtime.batches import Batches
from workbench.runtime.build import build_blocks
from workbench.spec import RunSpec
from workbench.testing import cases
from workbench.testing.conformance import assert_conforms
from workbench.testing.workers import run_in_workers

MIXED = {"mixed_precision": "bf16"}


def spec_of(model: str, split: dict[str, Any], **train: Any) -> dict[str, Any]:
    spec = compatibility.cases({"": split}, {model: compatibility.models()[model]}, ["train"])[0].spec
    return {
        **spec,
        "train": {**compatibility.TRAIN, **MIXED, **train},
        "measure": {**compatibility.MEASURE, "parity_precision": "bf16"},
    }


def plain_losses(rank: int, recorder: Any, control: Any, spec: dict[str, Any]) -> list[float]:
    """Mixed precision in plain torch."""
    planned, device = plan(RunSpec(**spec)), torch.device("cpu")
    batches = Batches(planned, device, torch.float32)
    model = build_blocks(planned, [block.name for block in planned.full_model.blocks], torch.float32)
    groups = [[p for p in model.parameters() if p.dim() >= 2], [p for p in model.parameters() if p.dim() < 2]]
    optimizer = torch.optim.SGD([{"params": groups[0], "weight_decay": 0.1}, {"params": groups[1]}], lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (0.5, 1.0, 1.0, 0.5, 0.0)[step])
    losses = []
    for step in range(4):
        inputs, targets = batches.step_batch(step)
        optimizer.zero_grad()
        copies = {name: p.to(torch.bfloat16) for name, p in model.named_parameters()}
        loss = planned.model.loss(torch.func.functional_call(model, copies, (inputs,)).float(), targets)
        loss.backward()
        assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def test_one_worker_computes_with_bf16_copies_of_fp32_parameters() -> None:
    spec = spec_of("transformer", {}, optimizer="sgd", learning_rate=0.1)
    (worker,), (losses,) = run_in_workers(1, cases.training, spec), run_in_workers(1, plain_losses, spec)
    assert worker["losses"][:4] == losses


PIPELINE = {"size": 2, "num_microbatches": 4}
SPLITS: dict[str, tuple[str, dict[str, Any]]] = {
    "data, accumulated · tensor": ("transformer", {"data": {"size": 2, "num_accumulation_steps": 2}, "tensor": 2}),
    "zero1": ("cnn", {"zero1": 2}),
    "zero2": ("mlp", {"zero2": 2}),
    "hsdp": ("transformer, tied", {"fsdp": {"size": 4, "shard_size": 2}}),
    "layer": ("lstm", {"layer": 2}),
    "pipeline": ("transformer, tied", {"pipeline": PIPELINE}),
    "pipeline, zero bubble": ("mlp", {"pipeline": {**PIPELINE, "schedule": "zbv_zero_bubble"}}),
    "tensor, loss of slices": ("transformer", {"tensor": {"size": 2, "parallel_loss": True}}),
    "tensor, sequence parallel": ("transformer", {"tensor": {"size": 2, "sequence_parallel": True}}),
    "context": ("transformer", {"context": 2}),
    "expert": ("moe", {"expert": 2, "data": 4}),
    "data · pipeline · tensor": ("transformer", {"data": 2, "pipeline": 2, "tensor": 2}),
    "fsdp · pipeline": ("mlp", {"fsdp": 2, "pipeline": 2}),
    "fsdp · tensor": ("transformer", {"fsdp": 2, "tensor": 2}),
}
USUAL = ("zero1", "layer", "pipeline, zero bubble", "tensor, sequence parallel")


@pytest.mark.parametrize("split", [pytest.param(split, marks=[] if split in USUAL else pytest.mark.slow) for split in SPLITS])
def test_a_split_is_one_worker_and_its_formulas(split: str) -> None:
    model, parts = SPLITS[split]
    assert_conforms(spec_of(model, parts))


def test_activations_and_gathered_parameters_take_half_the_bytes_and_gradients_all() -> None:
    def bytes_of(split: dict[str, Any], model: str = "transformer", **train: Any) -> dict[tuple[str, str], int]:
        spec = spec_of(model, split, **train)
        found: Counter[tuple[str, str]] = Counter()
        for t in plan(RunSpec(**spec)).expected_communication:
            found[t.operation, t.phase] += t.count * t.payload_bytes
        return dict(found)

    halved = {
        "fsdp": {("all_gather", "forward"), ("all_gather", "backward")},
        "data": set(),
        "zero1": set(),
        "pipeline": {("send", "forward"), ("send", "backward")},
        "layer": {("send", "forward"), ("send", "backward")},
        "tensor": {("all_reduce", "forward"), ("all_reduce", "backward"), ("all_gather", "forward"), ("all_gather", "backward")},
        "context": {("send", "forward"), ("send", "backward")},
    }
    for name, half in halved.items():
        whole, mixed = bytes_of({name: 2}, mixed_precision="none"), bytes_of({name: 2})
        assert mixed == {key: total // 2 if key in half else total for key, total in whole.items()}, name


@pytest.mark.parametrize(
    "split", [{}, {"zero1": 2}, {"tensor": 2}, {"pipeline": {**PIPELINE, "schedule": "gpipe"}}, {"fsdp": 2}], ids=str
)
def test_memory_is_the_formulas_with_the_copies(split: dict[str, Any]) -> None:
    spec = spec_of("transformer", split)
    spec["model"] = {"name": "transformer", "num_layers": 2, "hidden_dim": 64}
    spec["dataset"] = {"name": "text", "sequence_length": 64}
    planned = plan(RunSpec(**spec))
    for rank, worker in enumerate(run_in_workers(planned.num_workers, cases.training, spec)):
        expected = asdict(expected_memory(planned, rank))
        assert worker["kept_activation_bytes"] == pytest.approx(expected["activations"], rel=0.05)


def test_parity_in_fp64_is_of_the_split_alone() -> None:
    spec = spec_of("mlp", {"data": 2}) | {"measure": {"parity_precision": "fp64"}}
    report = run_in_workers(2, cases.parity, spec, None)[0]
    assert report["ok"]
    assert report["max_error"] < 1e-12


@pytest.mark.parametrize("mistake", ["gradients not averaged", "gradients doubled"])
def test_a_mistake_is_noticed_in_mixed_precision(mistake: str) -> None:
    assert run_in_workers(2, cases.parity, spec_of("mlp", {"data": 2}), mistake)[0]["ok"] is False


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "copies of what is small already": ({"train": {**MIXED, "precision": "bf16"}}, "set train.precision = fp32"),
    "inference": ({"train": MIXED, "mode": "inference"}, "use train.precision = bf16"),
    "compiled": ({"train": {**MIXED, "compile": True}}, "does not see the parameter copies"),
    "layers called with a state": (
        {"model": "lstm", "train": MIXED, "split": {"pipeline": {"schedule": "time_chunks"}}},
        "passes recurrent states to its layers",
    ),
    "gradients summed in bf16": (
        {"model": "cnn", "train": MIXED, "split": {"tensor": {"cut": {"convolution": "rows"}}}},
        "cut convolutions by channels",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_mixed_precision_does_not_work_with_is_refused(case: str) -> None:
    spec, sentence = REFUSED[case]
    with pytest.raises(SpecError, match=sentence) as refused:
        plan(RunSpec(**spec))
    assert str(refused.value).startswith("train.mixed_precision")
