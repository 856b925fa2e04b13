"""Sharded and compressed data parallelism: what a worker keeps, what compressing costs, what is refused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from functools import cache
from itertools import pairwise
from typing import Any

import pytest

from tests.helpers import cases
from tests.helpers.sizes import larger_are_slow
from workbench.errors import SpecError
from workbench.metrics.communication import measured_communication
from workbench.plan import compatibility
from workbench.plan.plan import Plan
from workbench.plan.resolve import plan
from workbench.spec import RunSpec, Split
from workbench.spec.files import dumps, override
from workbench.testing.workers import run_in_workers

STATES_OF_ADAM = 2  # its moments; each parameter has its count of steps besides
FP32 = 4


def spec_of(model: str, split: dict[str, Any], **train: Any) -> dict[str, Any]:
    return {**compatibility.models()[model], "split": split, "train": {**compatibility.TRAIN, **train}}


def planned(model: str, split: dict[str, Any], **train: Any) -> Plan:
    return plan(RunSpec(**spec_of(model, split, **train)))


@cache
def _trained(spec: str) -> str:
    given = json.loads(spec)
    return json.dumps(run_in_workers(plan(RunSpec(**given)).num_workers, cases.training, given), default=asdict)


def bytes_of(rows: Iterable[dict[str, Any]], times_count: bool) -> dict[tuple[str, str, str], float]:
    """Bytes by operation, axis and phase; a formula's are of one operation, measured ones of all."""
    sums: Counter[tuple[str, str, str]] = Counter()
    for t in rows:
        sums[t["operation"], t["axis"], t["phase"]] += t["payload_bytes"] * (t["count"] if times_count else 1)
    return dict(sums)


def assert_bytes_are_the_formulas(spec: dict[str, Any], results: list[dict[str, Any]]) -> None:
    expected = bytes_of(map(asdict, plan(RunSpec(**spec)).expected_communication), times_count=True)
    assert bytes_of(measured_communication(results), times_count=False) == expected


def trained(model: str, split: dict[str, Any], **train: Any) -> list[dict[str, Any]]:
    return list(json.loads(_trained(json.dumps(spec_of(model, split, **train)))))


@pytest.mark.parametrize(
    ("alias", "shard"), [("zero1", "optimizer"), ("zero2", "gradients"), ("zero3", "parameters"), ("fsdp", "parameters")]
)
def test_an_alias_is_recorded_as_what_it_stands_for(alias: str, shard: str) -> None:
    table = override({}, model="mlp", dataset=None, splits=[f"{alias}=2,bucket_size_mib=5.0"], sets=[])
    spec = RunSpec(**table)
    assert spec.split == Split(data={"size": 2, "shard": shard, "bucket_size_mib": 5.0})
    assert f'[split.data]\nsize = 2\nshard = "{shard}"' in dumps(spec)


def test_labels_tell_replicas_apart() -> None:
    options: list[dict[str, Any]] = [
        {"data": 4}, {"zero1": 4}, {"zero2": 4}, {"fsdp": 4}, {"fsdp": {"size": 4, "shard_size": 2}},
        {"data": {"size": 4, "num_accumulation_steps": 2}}, {"data": {"size": 4, "compression": "fp16"}},
        {"data": {"size": 4, "compression": "powersgd"}},
        {"data": {"size": 4, "compression": "powersgd", "compression_rank": 2}},
    ]  # fmt: skip
    assert [Split(split).label for split in options] == [
        "dp4", "dp4-zero1", "dp4-zero2", "fsdp4", "fsdp4-s2", "dp4-a2", "dp4-fp16", "dp4-powersgd1", "dp4-powersgd2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("split", "parameters", "gradients", "states"),
    larger_are_slow(
        [
            ({"data": 2}, 1, 1, 1),
            ({"zero1": 2}, 1, 1, 1 / 2),
            ({"zero2": 2}, 1 / 2, 1 / 2, 1 / 2),
            ({"zero3": 2}, 1 / 2, 1 / 2, 1 / 2),
            ({"zero3": 4}, 1 / 4, 1 / 4, 1 / 4),
            ({"zero3": {"size": 4, "shard_size": 2}}, 1 / 2, 1 / 2, 1 / 2),
        ],
        lambda case: case[0],
    ),
)
def test_a_worker_keeps_its_part_between_steps(split: dict[str, Any], parameters: float, gradients: float, states: float) -> None:
    whole = planned("transformer", {}).full_model.num_parameters
    for worker in trained("transformer", split):
        assert worker["parameters"] == parameters * whole
        assert worker["gradient_bytes"] == gradients * whole * FP32
        elements = worker["optimizer_state_bytes"] / FP32 / STATES_OF_ADAM
        assert elements == pytest.approx(states * whole, rel=0.01)


def test_parameters_that_are_freed_after_forward_lower_the_peak() -> None:
    """With blocks that weigh more than their activations, each further shard is less memory on the largest worker."""
    model = {"model": {"name": "mlp", "num_layers": 6, "hidden_dim": 64, "feedforward_dim": 256}, "dataset": "digits"}
    peaks = []
    for split in ({"data": 2}, {"zero1": 2}, {"zero2": 2}, {"zero3": 2}):
        results = run_in_workers(
            2, cases.training, {**model, "split": split, "train": {**compatibility.TRAIN, "optimizer": "adamw"}}
        )
        peaks.append(max(r["peak_memory_bytes"] for r in results))
    assert all(less < more for more, less in pairwise(peaks)), peaks


@pytest.mark.parametrize(
    ("model", "split"),
    larger_are_slow(
        [
            ("mlp", {"zero1": 2}),
            ("mlp", {"zero1": 4}),
            ("transformer, tied", {"zero1": 2, "layer": 2}),
            ("transformer, tied", {"zero1": 2, "tensor": 2}),
            ("mlp", {"fsdp": 4}),
        ],
        lambda case: case[1],
    ),
)
def test_the_optimizers_state_is_that_of_the_parameters_that_the_formula_deals_out(model: str, split: dict[str, Any]) -> None:
    made = planned(model, split, optimizer="momentum")  # momentum keeps one number an element and nothing else
    states = [r["optimizer_state_bytes"] for r in trained(model, split, optimizer="momentum")]
    assert states == [FP32 * n for n in made.expected_record()["updated_parameters_per_worker"]]


@pytest.mark.parametrize(
    "split",
    larger_are_slow(
        [
            {"zero1": 2, "tensor": 2},
            {"fsdp": 2},
            {"zero2": 2},
            {"fsdp": {"size": 4, "shard_size": 2}},
            {"fsdp": {"size": 2, "num_accumulation_steps": 4}},
            {"fsdp": 2, "pipeline": {"size": 2, "schedule": "gpipe"}},
            {"fsdp": 2, "pipeline": {"size": 2, "schedule": "1f1b"}},
            {"fsdp": 2, "pipeline": {"size": 2, "schedule": "looped_bfs"}},
        ],
        lambda split: split,
    ),
)
def test_each_worker_issues_as_many_operations_as_the_formula_says(split: dict[str, Any]) -> None:
    made = planned("transformer", split)
    for rank, worker in enumerate(trained("transformer", split)):
        counts: Counter[tuple[str, str, int]] = Counter()
        for t in made.expected_communication_of(rank):
            if t.axis == "data" and t.operation != "all_reduce":
                counts[t.operation, t.phase, t.group_size] += t.count
        measured = {
            (t["operation"], t["phase"], t["group_size"]): t["count"]
            for t in worker["communication"]
            if t["axis"] == "data" and t["operation"] != "all_reduce"
        }
        assert measured == {key: count for key, count in counts.items() if count}


COMPRESSED = [
    ("mlp", {"compression": "fp16"}),
    ("mlp", {"compression": "bf16"}),
    ("transformer", {"compression": "fp16"}),
    ("transformer", {"compression": "bf16", "shard": "optimizer", "num_accumulation_steps": 2}),
    ("mlp", {"compression": "powersgd", "bucket_size_mib": 0.002}),
    ("transformer", {"compression": "powersgd", "compression_rank": 2}),
]


@pytest.mark.parametrize(("model", "options"), COMPRESSED)
def test_compressed_gradients_take_the_bytes_of_the_formula(model: str, options: dict[str, Any]) -> None:
    split = {"data": {"size": 2, **options}}
    assert_bytes_are_the_formulas(spec_of(model, split), trained(model, split))
    sent, full = (
        next(t for t in planned(model, s).expected_communication if t.operation == "all_reduce") for s in (split, {"data": 2})
    )
    assert sent.payload_bytes <= full.payload_bytes / (2 if options["compression"] != "powersgd" else 1.5)


@pytest.mark.parametrize(
    ("model", "options"),
    [*(pytest.param(*case, marks=pytest.mark.slow) for case in COMPRESSED[:3]), *COMPRESSED[3:]],
)
def test_compression_is_neither_equal_nor_wrong(model: str, options: dict[str, Any]) -> None:
    report = run_in_workers(2, cases.parity, spec_of(model, {"data": {"size": 2, **options}}), None)[0]
    assert report["ok"] is None, report
    assert report["max_error"] > 1e-9, "what is rounded differs"
    if options["compression"] == "powersgd":
        assert report["allowed"] is None
    else:
        assert report["max_error"] <= report["allowed"] < 0.3, "a mistake of the order of 1 is not allowed"


@pytest.mark.parametrize("compression", ["fp16", "bf16", "powersgd"])
def test_a_mistake_beside_compression_is_noticed(compression: str) -> None:
    split = {"data": {"size": 2, "compression": compression}}
    assert run_in_workers(2, cases.parity, spec_of("mlp", split), "gradients doubled")[0]["ok"] is False


@pytest.mark.parametrize(
    "split", larger_are_slow([{"zero1": 2}, {"fsdp": 2}, {"fsdp": {"size": 4, "shard_size": 2}}], lambda split: split)
)
def test_a_mistake_beside_sharding_is_noticed(split: dict[str, Any]) -> None:
    made = planned("mlp", split)
    assert run_in_workers(made.num_workers, cases.parity, spec_of("mlp", split), "gradients doubled")[0]["ok"] is False


@pytest.mark.parametrize(
    "split",
    larger_are_slow(
        [{"fsdp": 2, "tensor": 2}, {"fsdp": {"size": 4, "shard_size": 2}}, {"fsdp": 2, "pipeline": 2}, {"zero1": 2}],
        lambda split: split,
    ),
)
def test_gradients_are_clipped_by_the_norm_of_all_shards(split: dict[str, Any]) -> None:
    spec = spec_of("transformer, tied", split, max_gradient_norm=0.1)
    report = run_in_workers(plan(RunSpec(**spec)).num_workers, cases.parity, spec, None)[0]
    assert report["ok"], report


@pytest.mark.parametrize(
    "split", larger_are_slow([{"fsdp": 2}, {"fsdp": 2, "pipeline": 2}, {"fsdp": 2, "layer": 2}], lambda split: split)
)
def test_sharded_parameters_are_gathered_for_inference(split: dict[str, Any]) -> None:
    spec = {**spec_of("transformer", split), "mode": "inference"}
    made = plan(RunSpec(**spec))
    assert run_in_workers(made.num_workers, cases.parity, spec, None)[0]["ok"]
    assert_bytes_are_the_formulas(spec, run_in_workers(made.num_workers, cases.training, spec))


def test_blocks_that_are_computed_again_are_gathered_once_for_it() -> None:
    spec = spec_of("transformer", {"fsdp": 2}, checkpointing="full")
    assert run_in_workers(2, cases.parity, spec, None)[0]["ok"]
    assert_bytes_are_the_formulas(spec, run_in_workers(2, cases.training, spec))


DATA = {"size": 2}
ZBV = {"size": 2, "schedule": "zbv_zero_bubble"}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "batch": ("mlp", {"data": 3}, r"8 is not divisible by 3 workers \(remainder 2\)"),
    "twice": ("mlp", {"zero1": 2, "fsdp": 2}, "the split already contains the strategy data"),
    "no table": ("mlp", {"fsdp": "two"}, "but got 'two'"),
    "groups": ("mlp", {"fsdp": {"size": 4, "shard_size": 3}}, "into several equal groups of 3; use 2"),
    "one group": ("mlp", {"fsdp": {"size": 2, "shard_size": 2}}, "several equal groups of 2; remove it"),
    "groups of whole replicas": ("mlp", {"data": {"size": 4, "shard_size": 2}}, 'shard = "none"'),
    "compression of shards": ("mlp", {"fsdp": {"size": 2, "compression": "fp16"}}, 'with shard = "parameters"'),
    "compression inside": ("mlp", {"data": {**DATA, "compression": "bf16"}, "tensor": 2}, "together with tensor"),
    "pieces": ("mlp", {"data": {**DATA, "num_accumulation_steps": 3}}, r"4 samples .* into 3 accumulation steps \(remainder 1\)"),
    "pieces of pieces": ("mlp", {"data": {**DATA, "num_accumulation_steps": 2}, "pipeline": 2}, "num_microbatches = 2"),
    "tied within a worker": ("transformer, tied", {"data": 2, "pipeline": ZBV}, "stages 0 and 3 of the same worker"),
    "with context": ("transformer", {"fsdp": 2, "context": 2}, "incompatible with context"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_with_the_arithmetic(case: str) -> None:
    model, split, sentence = REFUSED[case]
    with pytest.raises(SpecError, match=sentence):
        planned(model, split)


def test_stages_that_a_schedule_gathers_in_its_own_order_are_refused() -> None:
    model = {"name": "mlp", "num_layers": 6}
    split = {"fsdp": 2, "pipeline": {"size": 2, "schedule": "looped_bfs", "stages_per_worker": 4}}
    with pytest.raises(SpecError, match="at most 3 sharded stages per worker gathered, but got 4"):
        plan(RunSpec(model=model, split=split, train=compatibility.TRAIN))


@pytest.mark.parametrize("options", [{"shard": "optimizer"}, {"compression": "fp16"}, {"num_accumulation_steps": 2}])
def test_inference_refuses_what_is_about_training(options: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"requires mode = \"train\": inference has no (optimizer state|gradients)"):
        plan(RunSpec(model="mlp", mode="inference", split={"data": {"size": 2, **options}}))
