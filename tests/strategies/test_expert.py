"""Experts on different workers compute what one worker computes, and what they send and drop is counted."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from tests.helpers import cases
from workbench.errors import SpecError
from workbench.metrics.communication import measured_communication
from workbench.plan.resolve import plan
from workbench.spec import RunSpec
from workbench.testing.workers import run_in_workers

MODEL = {"name": "moe", "num_layers": 2, "hidden_dim": 16, "num_heads": 2, "feedforward_dim": 32, "num_experts": 4, "top_k": 2}
DATASET = {"name": "text", "sequence_length": 16}
TRAIN = {"num_steps": 2, "num_warmup_steps": 0, "global_batch_size": 8}
PIPELINE = {"size": 2, "schedule": "1f1b", "num_microbatches": 2}


def spec_of(split: dict[str, Any], model: dict[str, Any] | None = None, **parts: Any) -> dict[str, Any]:
    train = {**TRAIN, **parts.pop("train", {})}
    return {"model": {**MODEL, **(model or {})}, "dataset": DATASET, "split": split, "train": train, **parts}


CASES: dict[str, dict[str, Any]] = {
    "alone": spec_of({"expert": 2}),
    "all of the data axis": spec_of({"data": 2, "expert": 2}),
    "half of the data axis": spec_of({"data": 4, "expert": 2}),
    "an expert a worker": spec_of({"data": 4, "expert": 4}),
    "with tensor": spec_of({"expert": 2, "tensor": 2}),
    "with pipeline": spec_of({"expert": 2, "pipeline": PIPELINE}),
    "with pipeline, half of the data axis": spec_of({"data": 4, "expert": 2, "pipeline": PIPELINE}),
    "with layer": spec_of({"expert": 2, "layer": 2}),
    "two experts of six on each": spec_of({"expert": 3}, {"num_experts": 6}, train={"global_batch_size": 6}),
    "one choice a token": spec_of({"expert": 2}, {"top_k": 1}),
    "gated, without biases": spec_of({"expert": 2}, {"feedforward": "gated", "bias": False}),
    "accumulated": spec_of({"data": {"size": 4, "num_accumulation_steps": 2}, "expert": 2}),
    "clipped": spec_of({"data": 4, "expert": 2}, train={"max_gradient_norm": 0.1}),
    "checkpointed": spec_of({"expert": 2}, train={"checkpointing": "full"}),
    "checkpointed by selection": spec_of({"expert": 2}, train={"checkpointing": "selective"}),
    "inference": spec_of({"data": 4, "expert": 2}, mode="inference"),
    "room for all": spec_of({"expert": 2}, {"capacity_factor": 4.0}),
}
TIGHT: dict[str, dict[str, Any]] = {
    "one choice": {"top_k": 1, "capacity_factor": 1.0},
    "two choices, gated": {"capacity_factor": 0.75, "feedforward": "gated"},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_experts_elsewhere_compute_what_one_worker_computes_and_move_the_bytes_of_the_formulas(case: str) -> None:
    planned = plan(RunSpec(**CASES[case]))
    reports, results = zip(*run_in_workers(planned.num_workers, cases.parity_and_training, CASES[case]), strict=True)
    assert reports[0]["max_error"] <= 1e-9, reports[0]
    assert not any(t.is_bound for t in planned.expected_communication)
    expected: Counter[tuple[str, str, str]] = Counter()
    for t in planned.expected_communication:
        expected[t.operation, t.axis, t.phase] += t.count * t.payload_bytes
    measured = {(t["operation"], t["axis"], t["phase"]): t for t in measured_communication(list(results))}
    assert {key: t["payload_bytes"] for key, t in measured.items()} == dict(expected)
    num_exchanges = sum(t.count for t in planned.expected_communication if t.operation == "all_to_all")
    assert sum(t["count"] for t in measured.values() if t["operation"] == "all_to_all") == num_exchanges
    assert [r["parameters"] for r in results] == planned.expected_record()["parameters_per_worker"]


@pytest.mark.slow
@pytest.mark.parametrize("model", TIGHT)
@pytest.mark.parametrize("split", [{"data": 4, "expert": 2}, {"expert": 2, "pipeline": PIPELINE}], ids=["data", "pipeline"])
def test_with_a_capacity_the_bytes_that_move_are_the_bound_less_the_room_that_stays_empty(
    split: dict[str, Any], model: str
) -> None:
    planned = plan(RunSpec(**(spec := spec_of(split, TIGHT[model], measure={"num_trace_steps": 2}))))
    reports, results = zip(*run_in_workers(planned.num_workers, cases.parity_and_training, spec), strict=True)
    assert reports[0]["max_error"] <= 1e-9, reports[0]
    expected = {"forward": 0, "backward": 0}
    for t in planned.expected_communication:
        if t.operation == "all_to_all":
            expected[t.phase] += t.count * t.payload_bytes
    bounds = {(t.operation, t.axis, t.phase) for t in planned.expected_communication if t.is_bound}
    assert bounds == {("all_to_all", "expert", phase) for phase in expected}
    exchanged = {t["phase"]: t["payload_bytes"] for t in measured_communication(list(results)) if t["operation"] == "all_to_all"}
    assert 0 < exchanged["forward"] < expected["forward"]
    assert 0 < exchanged["backward"] < expected["backward"]
    # Both phases are short by the same tokens.
    assert expected["forward"] - exchanged["forward"] == expected["backward"] - exchanged["backward"]


def drops(spec: dict[str, Any]) -> float | None:
    """Assignments dropped per step, over all workers."""
    results = run_in_workers(plan(RunSpec(**spec)).num_workers, cases.training, spec)
    known = [r["dropped_tokens"] for r in results if r["dropped_tokens"] is not None]
    return sum(known) if known else None


def test_dropped_tokens_are_counted_once_and_over_all_workers() -> None:
    tight = {"top_k": 1, "capacity_factor": 1.0}
    alone = drops(spec_of({}, tight))
    assert alone is not None
    assert 0 < alone < 8 * 16 * 2
    assert drops(spec_of({}, tight, train={"checkpointing": "full"})) == alone
    assert drops(spec_of({}, tight, train={"checkpointing": "selective"})) == alone
    # A stage drops in its own layers; without microbatches the routers see what one worker's see.
    assert drops(spec_of({"layer": 2}, tight)) == alone
    pieces = drops(spec_of({"data": 2}, tight))
    assert drops(spec_of({"data": 2, "expert": 2}, tight)) == pieces


def test_without_a_capacity_nothing_is_dropped_and_without_experts_there_is_nothing_to_say() -> None:
    assert drops(spec_of({"expert": 2})) == 0
    assert drops({"model": "mlp", "dataset": "digits", "split": {}, "train": TRAIN}) is None


def test_parity_notices_experts_whose_gradients_are_not_divided() -> None:
    spec = spec_of({"data": 4, "expert": 2})
    report = run_in_workers(4, cases.parity, spec, "experts summed")[0]
    assert not report["ok"]
    assert "experts" in report["tensor"]


def test_each_worker_keeps_its_experts_alone_in_memory() -> None:
    whole, part = (plan(RunSpec(**spec_of(split))) for split in ({"data": 4}, {"data": 4, "expert": 4}))
    experts = sum(p.numel for p in whole.full_model.parameters if ".experts." in p.name)
    assert part.local_model(1).num_parameters == whole.local_model(1).num_parameters - experts * 3 // 4
    results = run_in_workers(4, cases.training, spec_of({"data": 4, "expert": 4}))
    assert {r["optimizer_state_bytes"] // r["parameter_bytes"] for r in results} == {2}  # AdamW's two moments


@pytest.mark.parametrize(
    ("split", "parts", "message"),
    [
        ({"expert": 2}, {"model": "transformer"}, "transformer has no experts"),
        (
            {"expert": 3},
            {"train": {"global_batch_size": 6}},
            r"4 experts are not divisible by 3 workers \(remainder 1\); use 2 or 4",
        ),
        ({"expert": 4}, {"train": {"global_batch_size": 6}}, r"batch size 6 is not divisible by 4 workers \(remainder 2\)"),
        (
            {"data": 6, "expert": 4},
            {"train": {"global_batch_size": 12}},
            r"6 workers is not divisible into groups of 4 \(remainder 2\)",
        ),
        ({"data": 2, "expert": 4}, {}, "use a divisor of 2"),
        ({"fsdp": 2, "expert": 2}, {}, "workers of the data axis hold different experts"),
        ({"zero1": 2, "expert": 2}, {}, "workers of the data axis hold different experts"),
        ({"data": {"size": 2, "compression": "bf16"}, "expert": 2}, {}, "together with expert"),
        ({"context": 2, "expert": 2}, {}, "router statistics"),
    ],
)
def test_what_experts_cannot_be_divided_over_is_refused(split: dict[str, Any], parts: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        plan(RunSpec(**{**spec_of(split), **parts}))


def test_experts_divide_the_data_axis_and_do_not_multiply_it() -> None:
    sizes = {"ep2": {"expert": 2}, "dp4-ep2": {"data": 4, "expert": 2}, "dp2-ep2-tp2": {"data": 2, "expert": 2, "tensor": 2}}
    meshes = {label: plan(RunSpec(**spec_of(split))).mesh.axes for label, split in sizes.items()}
    assert meshes == {"ep2": {"data": 2}, "dp4-ep2": {"data": 4}, "dp2-ep2-tp2": {"data": 2, "tensor": 2}}
    assert [RunSpec(**spec_of(split)).split.label for split in sizes.values()] == list(sizes)


def test_neighbours_share_experts_and_groups_hold_the_same() -> None:
    held = run_in_workers(4, held_experts, spec_of({"data": 4, "expert": 2}))
    assert held[:2] == held[2:]
    whole = run_in_workers(1, held_experts, spec_of({}))[0]
    assert held[0] + held[1] == whole


def held_experts(rank: int, recorder: Any, control: Any, spec: dict[str, Any]) -> list[Any]:
    from workbench.runtime.build import build_worker, local, make_mesh

    planned = plan(RunSpec(**spec))
    worker = build_worker(planned, rank, make_mesh(planned, "cpu", recorder), recorder, torch.device("cpu"), torch.float64)
    weights = local(dict(worker.named_parameters())["layer0.feedforward.experts.up.weight"])
    return weights[:, 0].tolist()  # of each expert held: one of its rows
