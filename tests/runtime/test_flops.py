"""Floating-point operations: by formula, as torch counts them, and as a share of what the device can do."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.cases import training
from tests.helpers.run_directory import run_record
from workbench.hardware.store import write_calibration
from workbench.metrics.utilisation import calibrated_peak
from workbench.plan.resolve import plan
from workbench.spec import RunSpec
from workbench.store.records import Environment
from workbench.testing.workers import run_in_workers

LAYERS, HIDDEN, LENGTH, BATCH = 4, 16, 8, 16
SMALL = {"name": "transformer", "num_layers": LAYERS, "hidden_dim": HIDDEN, "num_heads": 2}
SPEC = {
    "model": SMALL, "dataset": {"name": "text", "sequence_length": LENGTH},
    "train": {"num_steps": 1, "num_warmup_steps": 1}, "measure": {"num_trace_steps": 1},
}  # fmt: skip


def counted(num_workers: int, **spec: Any) -> list[int]:
    return list(_counted(num_workers, json.dumps(spec)))


@functools.cache
def _counted(num_workers: int, text: str) -> list[int]:
    spec = json.loads(text)
    return [worker["counted_flops"] for worker in run_in_workers(num_workers, training, {**SPEC, "split": {}, **spec})]


def test_what_torch_counts_is_the_formula_and_the_scores_that_fused_attention_computes_again() -> None:
    formula = plan(RunSpec(**SPEC)).flops_per_step
    again = LAYERS * BATCH * 2 * LENGTH**2 * HIDDEN  # one product of four in forward and backward beside q kᵀ itself
    assert counted(1) == [formula + again]


@pytest.mark.parametrize(
    "split",
    [
        {"data": 2},
        {"tensor": 2},
        {"pipeline": {"size": 2, "schedule": "zbv_zero_bubble"}},
        pytest.param({"fsdp": 2}, marks=pytest.mark.slow),
        pytest.param({"layer": 2}, marks=pytest.mark.slow),
        pytest.param({"pipeline": {"size": 2, "schedule": "1f1b"}}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_workers_of_a_split_compute_together_what_one_computes(split: dict[str, Any]) -> None:
    (single,) = counted(1)
    each = counted(2, split=split)
    assert sum(each) == single
    assert min(each) > 0


def test_inference_is_the_forward_pass_alone_and_a_generation_has_no_formula() -> None:
    inference = RunSpec(**SPEC, mode="inference")
    assert plan(inference).flops_per_step * 3 == plan(RunSpec(**SPEC)).flops_per_step
    assert counted(1, mode="inference") == [plan(inference).flops_per_step]
    assert plan(inference.replace(inference={"prompt_length": 4, "num_new_tokens": 2})).flops_per_step is None


def test_what_checkpointing_computes_again_is_counted_and_is_not_in_the_formula() -> None:
    (plain,) = counted(1)
    (again,) = counted(1, train={**SPEC["train"], "checkpointing": "full"})
    forward = sum(b.forward_flops for b in plan(RunSpec(**SPEC)).full_model.blocks) * BATCH
    assert plain < again <= plain + forward


def test_recurrent_layers_are_counted() -> None:
    spec = {"model": {"name": "lstm", "hidden_dim": 16}, "dataset": {"name": "sunspots"}}
    formula = plan(RunSpec(**spec)).flops_per_step
    (found,) = counted(1, **spec)
    assert 0.9 * formula < found <= formula, "the first layer's inputs need no gradient"


def test_without_a_warmup_step_or_compiled_nothing_is_counted() -> None:
    assert counted(1, train={"num_steps": 1, "num_warmup_steps": 0}) == [None]


def test_the_peak_is_of_as_many_threads_of_no_more_cores_than_there_are_and_of_the_same_machine(tmp_path: Path) -> None:
    here = {"machine": "here", "cpu": "fast", "num_cores": 4, "torch_version": "2"}

    def peak(precision: str, threads: int, num_workers: int, num_cores: int, **other: Any) -> float | None:
        workers = {"threads_per_worker": threads, "num_workers": num_workers, "num_cores": num_cores}
        record = run_record(**workers)
        found = calibrated_peak(tmp_path, Environment(**{**here, **other}), record, precision)
        assert found is None or not found.stale
        return found and found.flops_per_s

    assert peak("fp32", 1, 2, 4) is None, "nothing was calibrated"
    entries = [
        {"num_threads": 1, "precision": "fp32", "flops_per_s": 5e9},
        {"num_threads": 2, "precision": "fp32", "flops_per_s": 9e9},
    ]
    write_calibration(tmp_path, {"matmul": entries, "environment": here})
    assert peak("fp32", 1, 2, 4) == 10e9
    assert peak("fp32", 1, 8, 4) == 20e9
    assert peak("fp32", 2, 2, 4) == 18e9
    assert peak("fp32", 2, 1, 1) == 9e9
    assert peak("bf16", 1, 2, 4) is None
    assert peak("fp32", 1, 2, 4, machine="another") is None
    assert peak("fp32", 1, 2, 4, torch_version="3") is None
    (tmp_path / "calibration.json").write_text("{")
    assert peak("fp32", 1, 2, 4) is None
