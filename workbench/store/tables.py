"""Columns of the tables: names carry their unit; what could not be measured is empty, never 0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

RUN_STATIC_COLUMNS = (
    "run_id", "name", "state", "mode", "model", "dataset", "split", "num_workers", "device", "backend", "torch_version",
    "created_at", "baseline_run_id",
)  # fmt: skip
_FIRST_FIGURES = (
    "step_time_s", "step_time_p10_s", "step_time_p90_s", "samples_per_s", "tokens_per_s", "speedup", "speedup_same_cores",
    "efficiency", "parameters_per_worker", "peak_memory_bytes", "communication_bytes_per_step", "compute_s",
    "exposed_communication_s", "idle_s", "optimizer_s", "other_s", "bubble_fraction", "imbalance", "final_loss", "parity_ok",
    "parity_max_error", "step_time_p95_s", "time_to_first_token_s", "time_per_token_s", "generated_tokens_per_s",
    "other_load_cores", "dropped_tokens", "schedule_s", "flops_per_step", "flops_per_s", "utilisation",
)  # fmt: skip
_LATER_FIGURES = ("parity_whole_batch_error",)
RUN_FIGURES = (*_FIRST_FIGURES, *_LATER_FIGURES)
RUN_LABELS = ("tags", "note")
RUN_COLUMNS = (
    *RUN_STATIC_COLUMNS, *_FIRST_FIGURES, "link", *RUN_LABELS, "threads_per_worker", "parity_on_purpose", "parity_verdict",
    *_LATER_FIGURES, "parity_cause", "parity_remedy",
)  # fmt: skip

_RUN_TYPES = {
    **dict.fromkeys((*RUN_STATIC_COLUMNS, "link", *RUN_LABELS, "parity_on_purpose", "parity_verdict"), "string"),
    **dict.fromkeys(("parity_cause", "parity_remedy"), "string"),
    **dict.fromkeys(("num_workers", "threads_per_worker", "parameters_per_worker", "peak_memory_bytes"), "int64"),
    **dict.fromkeys(("communication_bytes_per_step", "flops_per_step"), "int64"),
    "created_at": "float64",
    "parity_ok": "bool",
}
RUN_TYPES = {column: _RUN_TYPES.get(column, "float64") for column in RUN_COLUMNS}
"""Column of ``runs`` → Arrow type."""

TABLES: dict[str, dict[str, str]] = {
    "steps": {
        "run_id": "string", "rank": "int64", "step": "int64", "kind": "string", "start_s": "float64", "duration_s": "float64",
        "num_samples": "int64", "num_tokens": "int64", "loss": "float64", "time_to_first_token_s": "float64",
        "num_operations": "int64", "payload_bytes": "int64", "blocked_s": "float64", "data_s": "float64",
    },
    "memory": {
        "run_id": "string", "rank": "int64", "step": "int64", "time_s": "float64", "event": "string", "category": "string",
        "bytes": "int64",
    },
    "communication": {
        "run_id": "string", "rank": "int64", "step": "int64", "index": "int64", "operation": "string", "axis": "string",
        "group": "string", "peer": "int64", "phase": "string", "payload_bytes": "int64", "ring_bytes": "int64",
        "dtype": "string", "start_s": "float64", "end_s": "float64", "exposed_communication_s": "float64", "idle_s": "float64",
        "blocked_s": "float64", "late_rank": "int64", "sequence": "int64", "completed_s": "float64",
    },
    "timeline": {
        "run_id": "string", "rank": "int64", "step": "int64", "kind": "string", "stage": "int64", "microbatch": "int64",
        "name": "string", "start_s": "float64", "end_s": "float64",
    },
    "peak_tensors": {
        "run_id": "string", "rank": "int64", "step": "int64", "category": "string", "module": "string", "shape": "string",
        "dtype": "string", "bytes": "int64",
    },
}  # fmt: skip
"""Table → column → Arrow type. Times are seconds on the run's own clock, which is one for all workers."""


def schema(name: str) -> Any:
    """The Arrow schema of a table, the same whatever its rows hold."""
    import pyarrow as pa

    columns = RUN_TYPES if name == "runs" else TABLES[name]
    return pa.schema([(column, pa.type_for_alias(kind)) for column, kind in columns.items()])


def done_s(communication: Any) -> Any:
    """When each operation of a table ``communication`` was done: when the wait for it ended or, where that is known to have been
    earlier, when it was complete. torch waits for sends at the end of a schedule."""
    import pyarrow.compute as pc

    return pc.min_element_wise(communication["end_s"], communication["completed_s"], skip_nulls=True)


def write_table(path: Path, name: str, rows: list[dict[str, Any]]) -> None:
    """Writes rows as a Parquet file of the table's columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema(name)), path)
