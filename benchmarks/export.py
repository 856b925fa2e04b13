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

from workbench.store.directory import RunDirectory
from workbench.store.tables import write_table
from workbench.testing.stored_run import stored_run, write_columns

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
    run = stored_run(store, RUN_ID, NUM_WORKERS)
    random, count = np.random.default_rng(0), NUM_ROWS // NUM_WORKERS
    for rank in range(NUM_WORKERS):
        steps = [
            {"run_id": RUN_ID, "rank": rank, "step": s, "kind": "trace", "start_s": s, "duration_s": 1.0}
            for s in range(NUM_STEPS)
        ]
        write_table(run.table_path("steps", rank), "steps", [{**row, "num_samples": 8} for row in steps])
        columns = {
            "run_id": RUN_ID, "rank": rank, "step": np.arange(count) * NUM_STEPS // count, "index": np.arange(count),
            "operation": OPERATIONS[random.integers(4, size=count)], "axis": "data", "group": "0", "phase": "backward",
            "dtype": "float32", "payload_bytes": random.integers(1 << 20, size=count),
            "ring_bytes": random.integers(1 << 20, size=count), "start_s": np.arange(count) / count * NUM_STEPS,
            "end_s": np.arange(1, count + 1) / count * NUM_STEPS, "exposed_communication_s": random.random(count),
            "idle_s": random.random(count),
        }  # fmt: skip
        write_columns(run.table_path("communication", rank), "communication", columns)
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
