"""What it costs to take a large run out: a million rows of communication of eight workers, exported and summarised.

``python benchmarks/export.py`` prints seconds of whole processes, beside what is wanted of them.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from workbench.spec import RunSpec
from workbench.spec.files import dumps
from workbench.store.directory import RunDirectory
from workbench.store.records import Environment, Expected, RunRecord
from workbench.store.run_status import RunState, RunStatus
from workbench.store.tables import schema, write_table

NUM_ROWS, NUM_WORKERS, NUM_STEPS, REPETITIONS, LIMIT_S = 1_000_000, 8, 100, 3, 5.0
RUN_ID = "20260101-000000-dp8-000000"
OPERATIONS = np.array(["all_reduce", "all_gather", "reduce_scatter", "all_to_all"])
COMMAND = [sys.executable, "-m", "workbench.cli.main"]
CASES = {
    "export as CSV": [*COMMAND, "export", RUN_ID, "--to", "csv"],
    "export as Parquet": [*COMMAND, "export", RUN_ID, "--to", "parquet", "--format", "parquet"],
    "summarise": [sys.executable, "-c", "import export; export.summarise()"],
}


def fill(store: Path) -> RunDirectory:
    """Writes the run; its rows differ as those of a real one do."""
    record = RunRecord(
        run_id=RUN_ID, name="", mode="train", model="transformer", dataset="text", split="dp8", num_workers=NUM_WORKERS,
        device="cpu", backend="gloo", torch_version="2", created_at=1.79e9, baseline_run_id=None, threads_per_worker=1,
        num_cores=NUM_WORKERS, mesh={"data": NUM_WORKERS}, expected=Expected(),
    )  # fmt: skip
    run = RunDirectory.create(store, RUN_ID, dumps(RunSpec()), record, Environment())
    run.write_status(RunStatus(RunState.FINISHED))
    random, count = np.random.default_rng(0), NUM_ROWS // NUM_WORKERS
    for rank in range(NUM_WORKERS):
        steps = [
            {"run_id": RUN_ID, "rank": rank, "step": s, "kind": "trace", "start_s": s, "duration_s": 1.0}
            for s in range(NUM_STEPS)
        ]
        write_table(run.table_path("steps", rank), "steps", [{**row, "num_samples": 8} for row in steps])
        columns: dict[str, object] = {
            "run_id": np.full(count, RUN_ID), "rank": np.full(count, rank), "step": np.arange(count) * NUM_STEPS // count,
            "index": np.arange(count), "operation": OPERATIONS[random.integers(4, size=count)], "axis": np.full(count, "data"),
            "group": np.full(count, "0"), "phase": np.full(count, "backward"), "dtype": np.full(count, "float32"),
            "payload_bytes": random.integers(1 << 20, size=count), "ring_bytes": random.integers(1 << 20, size=count),
            "start_s": np.arange(count) / count * NUM_STEPS, "end_s": np.arange(1, count + 1) / count * NUM_STEPS,
            "exposed_communication_s": random.random(count), "idle_s": random.random(count),
        }  # fmt: skip
        arrays = {
            f.name: pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(count, f.type)
            for f in schema("communication")
        }
        path = run.table_path("communication", rank)
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table(arrays), path)
    return run


def summarise() -> None:
    """What a report reads of the communication."""
    from workbench.analysis.communication import operations
    from workbench.store.directory import home

    frame = operations(RunDirectory(home() / "runs" / RUN_ID))
    assert frame["count"].sum() == NUM_ROWS / NUM_STEPS


def seconds(command: list[str], where: str) -> float:
    """Duration of a process."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=where, env={**os.environ, "PYTHONPATH": PATH})
    return time.perf_counter() - start


PATH = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])


def main() -> None:
    """Measures and prints."""
    with tempfile.TemporaryDirectory() as store:
        os.environ["WORKBENCH_HOME"] = store
        fill(Path(store))
        for name, command in CASES.items():
            median = statistics.median(seconds(command, store) for _ in range(REPETITIONS))
            print(f"{name:<18} {NUM_ROWS:,} rows: {median:.2f} s, wanted: less than {LIMIT_S:g} s")


if __name__ == "__main__":
    main()
