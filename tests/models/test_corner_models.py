"""Models that splits get wrong easily: frozen, adapted, unused, shared, scalar and tiny parameters, blocks without any."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.helpers.sizes import larger_are_slow
from workbench import registry
from workbench.errors import SpecError
from workbench.plan import compatibility
from workbench.plan.memory import expected_memory
from workbench.plan.model_summary import Tie, with_resolved_ties
from workbench.plan.plan import Plan
from workbench.plan.resolve import plan
from workbench.spec import RunSpec
from workbench.testing import cases
from workbench.testing.conformance import assert_conforms, assert_model_conforms
from workbench.testing.workers import run_in_workers

PLUGIN = "workbench.testing.corner_models"


@pytest.fixture(scope="module", autouse=True)
def _plugins() -> Iterator[None]:
    """The corner models are known here and in workers, and nowhere else."""
    before = os.environ.get("WORKBENCH_PLUGINS")
    os.environ["WORKBENCH_PLUGINS"] = PLUGIN
    registry._load.cache_clear()
    yield
    os.environ.pop("WORKBENCH_PLUGINS") if before is None else os.environ.update(WORKBENCH_PLUGINS=before)
    registry._load.cache_clear()


def spec_of(model: str | dict[str, Any], split: dict[str, Any], **train: Any) -> dict[str, Any]:
    options = {"name": model} if isinstance(model, str) else model
    dataset = registry.MODELS.get(options["name"]).default_dataset
    return {
        "model": options,
        "dataset": dataset,
        "split": split,
        "train": {**compatibility.TRAIN, "num_warmup_steps": 1, **train},
        "measure": compatibility.MEASURE,
        "launch": {"device": "cpu"},
    }


def planned(model: str | dict[str, Any], split: dict[str, Any], **train: Any) -> Plan:
    return plan(RunSpec(**spec_of(model, split, **train)))


MIXED_LAST = {"name": "mixed", "frozen": [0, 1, 2, 3]}
"""Only the head is trained: no gradient crosses a cut."""
MIXED_FIRST = {"name": "mixed", "frozen": [3, 4]}
"""Gradients pass through frozen layers."""


def pipeline(schedule: str = "1f1b", size: int = 2, **options: Any) -> dict[str, Any]:
    return {"pipeline": {"size": size, "schedule": schedule, **options}}


FROZEN: dict[str, tuple[str | dict[str, Any], dict[str, Any]]] = {
    "one worker": ("frozen", {}),
    "unused, one worker": ("unused", {}),
    "lora, data": ("lora", {"data": 2}),
    "zero1": ("frozen", {"zero1": 2}),
    "lora, fsdp": ("lora", {"fsdp": 2}),
    "unused, fsdp": ("unused", {"fsdp": 2}),
    "fsdp prefetches one frozen unit in vain": (MIXED_LAST, {"fsdp": {"size": 2, "num_accumulation_steps": 2}}),
    "hsdp": ({"name": "mixed", "frozen": [0, 1, 2]}, {"fsdp": {"size": 4, "shard_size": 2}}),
    "frozen first stage": ("frozen", {"layer": 2}),
    "gradients pass through a frozen stage": (MIXED_FIRST, {"layer": 2}),
    "zero1, a stage with nothing to train": (MIXED_LAST, {"zero1": 2, "layer": 2}),
    "1f1b, a stage with nothing to train": (MIXED_LAST, pipeline()),
    "zbv, a stage with nothing to train": (MIXED_LAST, pipeline("zbv_zero_bubble")),
    "dualpipev, a stage with nothing to train": (MIXED_LAST, pipeline("dualpipev")),
    "lora, zero bubble": ("lora", pipeline("interleaved_zero_bubble")),
    "fsdp, gpipe": ({"name": "mixed", "frozen": [0, 1, 3]}, {"fsdp": 2, **pipeline("gpipe")}),
    "fsdp, 1f1b, frozen units at the front": (
        {"name": "mixed", "frozen": [0, 1]},
        {"fsdp": 2, **pipeline(partition=[4, 1])},
    ),
    "unused, data": ("unused", {"data": {"size": 2, "num_accumulation_steps": 2}}),
    "unused, zero1": ("unused", {"zero1": {"size": 2, "find_unused_parameters": True}}),
    "sliced layers at the end of backward": (
        {"name": "sliced", "frozen": ["layer0", "layer1.norm", "layer1.up"]},
        {"tensor": 2},
    ),
    "fsdp, sliced layers": ("sliced", {"fsdp": 2, "tensor": 2}),
    "data, zero bubble": (MIXED_LAST, {"data": 2, **pipeline("interleaved_zero_bubble")}),
}


LIKE_ANOTHER = (
    "lora, fsdp", "unused, fsdp", "unused, zero1", "zbv, a stage with nothing to train",
    "dualpipev, a stage with nothing to train", "two stages of one worker, backward split",
)  # fmt: skip
"""Slow: what is frozen, and what the split does, also meet others in another case."""


@pytest.mark.parametrize("case", larger_are_slow(FROZEN, lambda case: FROZEN[case][1], slow=LIKE_ANOTHER))
def test_frozen_and_unused_parameters_have_no_gradient_and_cost_none(case: str) -> None:
    model, split = FROZEN[case]
    assert_conforms(spec_of(model, split))


@pytest.mark.parametrize(
    "split",
    larger_are_slow(
        [{"layer": {"size": 2, "partition": [1, 3]}}, pipeline(size=3), pipeline("zbv_zero_bubble"), {"data": 2, **pipeline()}],
        lambda split: split,
    ),
    ids=str,
)
def test_a_worker_without_parameters_takes_part(split: dict[str, Any]) -> None:
    assert_conforms(spec_of("flat", split))


@pytest.mark.parametrize(
    "schedule", ["interleaved_zero_bubble", "zbv_zero_bubble", pytest.param("dualpipev", marks=pytest.mark.slow)]
)
def test_a_block_may_return_a_view_where_backward_passes_are_split(schedule: str) -> None:
    assert_conforms(spec_of("views", pipeline(schedule)))


SHARED: dict[str, tuple[str, dict[str, Any]]] = {
    "two of three on one worker": ("source", {"layer": {"size": 2, "partition": [1, 3]}}),
    "three workers": ("chain", {"layer": 3}),
    "three of four workers": ("module", pipeline(size=4)),
    "two stages of one worker": ("parameter", pipeline("interleaved_1f1b")),
    "two stages of one worker, backward split": ("source", pipeline("zbv_zero_bubble")),
    "data": ("module", {"data": 2}),
    "fsdp": ("parameter", {"fsdp": 2}),
    "pipelines side by side": ("source", {"data": 2, **pipeline(size=3)}),
    "pipelines of shards": ("source", {"fsdp": 2, **pipeline(partition=[1, 3])}),
}


@pytest.mark.parametrize("case", larger_are_slow(SHARED, lambda case: SHARED[case][1], slow=LIKE_ANOTHER))
def test_a_weight_of_three_blocks_is_one_parameter(case: str) -> None:
    ties, split = SHARED[case]
    assert_conforms(spec_of({"name": "albert", "ties": ties}, split))


ONE_ROW = {"name": "gated", "scalar": False}


@pytest.mark.parametrize(
    ("model", "split"),
    larger_are_slow(
        [("gated", {"data": 2}), ("gated", pipeline()), (ONE_ROW, {"fsdp": 4}), (ONE_ROW, {"zero2": 2, **pipeline()})],
        lambda case: case[1],
    ),
    ids=str,
)
def test_parameters_of_no_dims_and_of_fewer_rows_than_workers(model: str | dict[str, Any], split: dict[str, Any]) -> None:
    assert_conforms(spec_of(model, split, max_gradient_norm=0.05))


@pytest.mark.parametrize(
    ("model", "split", "sentence"),
    [
        ("gated", {"fsdp": 2}, "FSDP does not support scalar parameters such as first.gate of gated"),
        ("gated", {"data": 2, "layer": 2}, "torch's replicate, which data uses with layer, .* such as first.gate"),
        ("gated", {"data": {"size": 2, "compression": "powersgd"}}, "PowerSGD does not support .* first.gate"),
        (
            "unused",
            {"data": {"size": 2, "find_unused_parameters": False}},
            "does not use body.spare.weight and body.spare.bias; set it to true",
        ),
        ("frozen", {"fsdp": {"size": 2, "find_unused_parameters": True}}, "is an option of DDP, which this split does not use"),
        ("sliced", {"tensor": {"size": 2}}, "checkpointing = full does not support .* layer0.norm.weight of sliced"),
        ("albert", {"data": 2, **pipeline("interleaved_1f1b")}, "b2.linear.weight and b0.linear.weight are tied"),
    ],
)
def test_what_torchs_wrappers_do_not_take_is_refused_by_name(model: str, split: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        planned(model, split, checkpointing="full" if "tensor" in split else "none")


@pytest.mark.parametrize(
    ("ties", "sentence"),
    [
        ([("b1.linear.weight", "b9.linear.weight")], "has no parameter b9.linear.weight"),
        ([("b1.linear.weight", "b0.linear.weight"), ("b0.linear.weight", "b1.linear.weight")], "to itself"),
        ([("b1.linear.weight", "head.weight")], r"their shape differs: \(16, 16\) and \(4, 16\)"),
    ],
)
def test_a_tie_that_cannot_be_is_refused(ties: list[tuple[str, str]], sentence: str) -> None:
    summary = planned({"name": "albert", "ties": "source"}, {}).full_model
    with pytest.raises(SpecError, match=sentence):
        with_resolved_ties(replace(summary, ties=tuple(Tie(*names) for names in ties)))


@pytest.mark.parametrize(
    "split",
    larger_are_slow(
        [{"data": 2}, {"data": {"size": 2, "num_accumulation_steps": 2}}, {"data": 2, **pipeline()}, pipeline()],
        lambda split: split,
    ),
    ids=str,
)
def test_each_replica_keeps_what_it_carries_from_batch_to_batch(split: dict[str, Any]) -> None:
    spec = spec_of("running", split)
    report = run_in_workers(plan(RunSpec(**spec)).num_workers, cases.parity, spec, None)[0]
    assert (report["verdict"], report["max_error"] < 1e-9) == ("equal per shard", True), report


def test_workers_that_have_the_same_part_of_the_loss_must_agree_on_it() -> None:
    from workbench.runtime.parity.errors import compare
    from workbench.runtime.parity.local_tensors import LocalTensor

    parts = [LocalTensor("loss", (0, 0), torch.tensor([loss])) for loss in (3.0, 1.0)]
    assert compare({"loss": torch.ones(1)}, parts[1:], 1e-3) == {"loss": 0.0}
    assert compare({"loss": torch.ones(1)}, parts, 1e-3)["loss"] > 1


def test_one_forward_pass_of_each_replica_is_one_of_the_whole_batch() -> None:
    report = run_in_workers(2, cases.parity, spec_of("spectral", {"data": 2}), None)[0]
    assert report["verdict"] == "equal", report


def test_an_error_that_is_no_number_is_infinite() -> None:
    from workbench.runtime.parity.errors import compare
    from workbench.runtime.parity.local_tensors import LocalTensor

    values = torch.tensor([1.0, math.nan])
    assert compare({"outputs": torch.ones(2)}, [LocalTensor("outputs", (0,), values)], 1e-3) == {"outputs": math.inf}


@pytest.mark.parametrize("has_it", ["reference", "split"])
def test_a_gradient_that_one_side_lacks_is_an_error_with_its_name(has_it: str) -> None:
    from workbench.runtime.parity.errors import compare
    from workbench.runtime.parity.local_tensors import LocalTensor

    values = torch.zeros(2)
    reference = {"gradient of a": values} if has_it == "reference" else {}
    parts = [LocalTensor("gradient of a", (0,), values)] if has_it == "split" else []
    assert compare(reference, parts, 1e-3) == {"gradient of a": math.inf}


class Pair(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x


@pytest.mark.parametrize(
    ("block", "sentence"),
    [
        (
            lambda: torch.nn.Linear(63, 10),
            "block 'head' of frozen failed on 2 samples on torch's meta device: Runtime",
        ),
        (Pair, "block 'head' of frozen must return one tensor, but returns tuple"),
    ],
)
def test_a_block_that_does_not_take_or_return_one_tensor_is_refused(block: Any, sentence: str) -> None:
    made: Any = planned("frozen", {}).model
    del vars(made)["_summary"]
    made.blocks = lambda: {"head": block}
    with pytest.raises(SpecError, match=sentence):
        made.summary()


def test_a_tensor_that_all_builds_would_share_is_refused() -> None:
    made: Any = planned("frozen", {}).model
    kept = torch.nn.Linear(64, 10)
    del vars(made)["_summary"]
    made.blocks = lambda: {"head": lambda: kept}
    with pytest.raises(SpecError, match=r"head\.weight on cpu outside blocks\(\)"):
        made.summary()


def test_the_gradient_of_a_shared_weight_is_the_sum_over_its_uses() -> None:
    """Of the reference that parity compares with: against plain torch with three weights of their own."""
    from torch import nn

    from workbench.runtime.build import build_blocks

    made = planned("albert", {"layer": 3})
    blocks = build_blocks(made, (b.name for b in made.full_model.blocks), torch.float64)
    part = build_blocks(made, ("b1", "b2"), torch.float64)
    assert len(list(part.parameters())) == 1
    shared = next(blocks.parameters())
    assert torch.equal(next(part.parameters()), shared), "a stage without the source begins with its values"
    weights = [shared.detach().clone().requires_grad_() for _ in range(3)]
    x = torch.randn(8, 16, dtype=torch.float64)
    blocks(x).square().sum().backward()
    for weight in weights:
        x = torch.tanh(x @ weight.T)
    head: Any = blocks.head
    nn.functional.linear(x, head.weight, head.bias).square().sum().backward()
    torch.testing.assert_close(shared.grad, sum(w.grad for w in weights if w.grad is not None))


@pytest.mark.parametrize("ties", ["source", "chain", "module", "parameter"])
def test_a_shared_weight_is_reduced_once_over_all_that_hold_it(ties: str) -> None:
    made = planned({"name": "albert", "ties": ties}, {"layer": 3})
    (reduced,) = [t for t in made.expected_communication if t.operation == "all_reduce"]
    assert (reduced.count, reduced.payload_bytes, reduced.group_size) == (1, 16 * 16 * 4, 3)
    assert made.full_model.num_parameters == 16 * 16 + 16 * 4 + 4


def test_a_frozen_trunk_costs_neither_gradients_nor_communication() -> None:
    made = planned("frozen", {"data": 2}, optimizer="adam")
    head, trunk, batch = 32 * 10 + 10, 64 * 32 + 32, 8
    assert [(t.operation, t.payload_bytes) for t in made.expected_communication] == [("all_reduce", 4 * head)]
    memory = expected_memory(made, 0)
    assert memory.parameters == 4 * (head + trunk)
    assert memory.gradients == 4 * head == 1320
    assert memory.optimizer_state == 2 * 1320 + 4 * 2, "two moments, and a count of steps for each of 2 parameters"
    assert made.flops_per_step == batch * 2 * (64 * 32 + 32 * 10 + 32 * 10), "of the head alone the weights' gradients"


def test_the_formula_of_floating_point_operations_is_what_torch_counts() -> None:
    from tests.helpers import cases
    from workbench.testing.workers import run_in_workers

    for model in ("frozen", "lora", MIXED_FIRST):
        spec = spec_of(model, {})
        (worker,) = run_in_workers(1, cases.training, spec)
        assert worker["counted_flops"] == plan(RunSpec(**spec)).flops_per_step


@pytest.mark.parametrize("model", ["frozen", "lora", "unused", "flat", "gated", "albert", "mixed", "sliced"])
def test_a_model_is_its_summary(model: str) -> None:
    assert_model_conforms({"model": {"name": model}, "dataset": registry.MODELS.get(model).default_dataset})


def test_training_a_model_that_is_frozen_as_a_whole_is_refused() -> None:
    frozen = {"name": "mixed", "frozen": [0, 1, 2, 3, 4]}
    with pytest.raises(SpecError, match="mixed has 6 parameters, all of them frozen or unused"):
        planned(frozen, {})
    spec = spec_of(frozen, {"data": 2})
    plan(RunSpec(**{**spec, "mode": "inference"}))
