"""A run directory of a few lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workbench.spec import RunSpec
from workbench.spec.files import dumps
from workbench.store.directory import RunDirectory
from workbench.store.json_record import from_json
from workbench.store.records import Environment, RunRecord

RECORD: dict[str, Any] = {
    "run_id": "20261124-001530-dp2-3f9a00",
    "name": "a name",
    "mode": "train",
    "model": "mlp",
    "dataset": "digits",
    "split": "dp2",
    "num_workers": 2,
    "device": "cpu",
    "torch_version": "2",
    "created_at": 0.0,
    "baseline_run_id": None,
    "mesh": {"data": 2},
    "threads_per_worker": 1,
    "num_cores": 2,
    "expected": {},
}


def run_record(**values: Any) -> RunRecord:
    return from_json(RunRecord, {**RECORD, **values})


def new_run(store: Path, run_id: str = RECORD["run_id"], spec: str | None = None, **record: Any) -> RunDirectory:
    text = dumps(RunSpec()) if spec is None else spec
    return RunDirectory.create(store, run_id, text, run_record(**{"run_id": run_id, **record}), Environment(num_cores=2))


def step_row(run: RunDirectory, rank: int, step: int, duration_s: float, **values: Any) -> dict[str, Any]:
    row = {"run_id": run.id, "rank": rank, "step": step, "kind": "timed", "start_s": 0.0, "duration_s": duration_s}
    return {**row, "num_samples": 8, "num_tokens": None, "loss": None, "data_s": 0.01, **values}
