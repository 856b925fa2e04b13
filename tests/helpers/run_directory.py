"""A run directory of a few lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workbench.spec import RunSpec
from workbench.spec.files import dumps
from workbench.store.directory import RunDirectory

RECORD = {
    "name": "a name",
    "mode": "train",
    "model": "mlp",
    "num_workers": 2,
    "device": "cpu",
    "mesh": {"data": 2},
    "threads_per_worker": 1,
    "num_cores": 2,
    "expected": {},
}


def new_run(store: Path, run_id: str = "20261124-001530-dp2-3f9a00", **record: Any) -> RunDirectory:
    return RunDirectory.create(store, run_id, dumps(RunSpec()), {**RECORD, "run_id": run_id, **record}, {"num_cores": 2})


def step_row(run: RunDirectory, rank: int, step: int, duration_s: float, **values: Any) -> dict[str, Any]:
    row = {"run_id": run.id, "rank": rank, "step": step, "kind": "timed", "start_s": 0.0, "duration_s": duration_s}
    return {**row, "num_samples": 8, "num_tokens": None, "loss": None, "data_s": 0.01, **values}
