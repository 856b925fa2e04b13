"""Run directories as runs leave them, of any size, without running anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from workbench.spec import RunSpec
from workbench.spec.files import dumps
from workbench.store.columns import TABLES
from workbench.store.directory import RunDirectory
from workbench.store.records import Environment, Expected, RunRecord
from workbench.store.run_status import RunState, RunStatus
from workbench.store.tables import schema

_SPEC = dumps(RunSpec())


def stored_run(store: Path, run_id: str, num_workers: int, **values: Any) -> RunDirectory:
    """Creates the directory of a finished run; ``values`` are other fields of its record."""
    record: dict[str, Any] = {
        "run_id": run_id, "name": "", "mode": "train", "model": "transformer", "dataset": "text", "split": f"dp{num_workers}",
        "num_workers": num_workers, "device": "cpu", "torch_version": "2", "created_at": 1.79e9, "baseline_run_id": None,
        "threads_per_worker": 1, "num_cores": num_workers, "mesh": {"data": num_workers}, "expected": Expected(),
    }  # fmt: skip
    run = RunDirectory.create(store, run_id, _SPEC, RunRecord(**{**record, **values}), Environment())
    run.write_status(RunStatus(RunState.FINISHED))
    return run


def write_columns(path: Path, name: str, columns: dict[str, Any]) -> None:
    """Writes a table from columns, of which those that are one value have it in every row; columns that are missing are empty."""
    assert set(columns) <= set(TABLES[name])
    count = max(len(column) for column in columns.values() if isinstance(column, np.ndarray))
    full = {column: values if isinstance(values, np.ndarray) else [values] * count for column, values in columns.items()}
    arrays = {field.name: pa.array(full.get(field.name, [None] * count), field.type) for field in schema(name)}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(arrays), path)
