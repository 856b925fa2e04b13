"""A run with its tables as two workers of a pipeline might have written them; nothing is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.helpers.comparison import record_run
from workbench.store.directory import RunDirectory
from workbench.store.tables import write_table

PIPELINE = "20261124-100003-pp2-1f1b-m4-dddddd"
NUM_MICROBATCHES, TRACE_STEPS = 4, (3, 4)
PAYLOAD_BYTES = 1000


def pipeline_run(store: Path, run_id: str = PIPELINE, **figures: Any) -> RunDirectory:
    """Two workers, two trace steps of four microbatches; each worker also has two all-reduces under way at the same time
    and one that nobody waited for."""
    run = record_run(store, run_id, "finished", 2, **figures)
    for rank in range(2):
        tables: dict[str, list[dict[str, Any]]] = {"steps": [], "communication": [], "timeline": [], "memory": []}
        for step, kind in enumerate(("warmup", "timed", "timed", "trace", "trace", "memory")):
            loss = float("nan") if step == 0 else 2.0 / (step + rank)
            common = {"run_id": run.id, "rank": rank, "step": step}
            tables["steps"].append(
                {**common, "kind": kind, "start_s": float(step), "duration_s": 0.9, "num_samples": 8, "loss": loss}
            )
            if kind == "trace":
                tables["communication"] += [{**common, **row} for row in _operations(rank, step)]
                tables["timeline"] += [{**common, **row} for row in _spans(rank, step)]
        for moment, event in enumerate(("before", "after", "peak")):
            for category, size in (("parameters", 100), ("activations", 50 * moment)):
                row = {"run_id": run.id, "rank": rank, "step": 5, "time_s": 5.1 + moment / 10}
                tables["memory"].append({**row, "event": event, "category": category, "bytes": size})
        for name, rows in tables.items():
            write_table(run.table_path(name, rank), name, rows)
    return run


def _operations(rank: int, step: int) -> list[dict[str, Any]]:
    rows = []
    for microbatch in range(NUM_MICROBATCHES):
        operation, start = ("send", 0.1) if rank == 0 else ("recv", 0.05)
        begin = step + start + 0.1 * microbatch
        times = {"start_s": begin, "end_s": begin + 0.06, "exposed_communication_s": 0.01, "idle_s": 0.02}
        rows.append({"operation": operation, "axis": "pipeline", "group": "pipe", "peer": 1 - rank, "phase": "forward", **times})
    for start, end in ((0.6, 0.7), (0.65, 0.75), (0.8, None)):
        times = {"start_s": step + start, "end_s": None if end is None else step + end}
        rows.append({"operation": "all_reduce", "axis": "data", "group": "all", "phase": "backward", **times})
    return [
        {**row, "index": i, "payload_bytes": PAYLOAD_BYTES, "ring_bytes": 1000, "dtype": "float32"} for i, row in enumerate(rows)
    ]


def _spans(rank: int, step: int) -> list[dict[str, Any]]:
    rows = []
    for microbatch in range(NUM_MICROBATCHES):
        for kind, start in (("forward", 0.1), ("backward", 0.5)):
            begin = step + start + 0.1 * microbatch
            rows.append({"kind": kind, "stage": rank, "microbatch": microbatch, "start_s": begin, "end_s": begin + 0.08})
    rows.append({"kind": "optimizer", "name": "zero_grad", "start_s": step + 0.01, "end_s": step + 0.02})
    rows.append({"kind": "idle", "name": "recv", "start_s": step + 0.15, "end_s": step + 0.19})
    rows.append({"kind": "communication", "name": "recv", "start_s": step + 0.19, "end_s": step + 0.2})
    return rows
