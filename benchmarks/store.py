"""What a front end costs: listing a thousand runs, importing, asking for help, being refused.

``python benchmarks/store.py`` prints the median seconds of whole processes. The thousand runs are copies of one that it makes.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPETITIONS, NUM_RUNS = 7, 1000
COMMAND = [sys.executable, "-m", "workbench.cli.main"]
CASES = {
    f"workbench ls, {NUM_RUNS:,} runs": ([*COMMAND, "ls"], 0, 0.5),
    "import workbench": ([sys.executable, "-c", "import workbench"], 0, 0.3),
    "workbench --help": ([*COMMAND, "--help"], 0, 0.6),
    "a refused spec": ([*COMMAND, "run", "--split", "data=3"], 2, 0.6),
}
"""Name → command, its exit code, and the seconds that it may take."""


def fill(store: Path) -> None:
    """Makes one run and copies its directory until there are a thousand."""
    import workbench as wb

    made = wb.run(wb.RunSpec(model="mlp", train={"num_steps": 1}, measure={"parity": False})).directory.path
    for i in range(NUM_RUNS - 1):
        shutil.copytree(made, store / "runs" / f"20260101-000000-single-{i:06x}")


def seconds(command: list[str], exit_code: int) -> float:
    """Duration of a process; what it prints is not shown."""
    start = time.perf_counter()
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    duration = time.perf_counter() - start
    assert result.returncode == exit_code, result.stderr
    if command[-1] == "ls":
        assert result.stdout.count("finished") == NUM_RUNS
    return duration


def main() -> None:
    """Measures and prints."""
    with tempfile.TemporaryDirectory() as store:
        os.environ["WORKBENCH_HOME"] = store
        fill(Path(store))
        for name, (command, exit_code, limit) in CASES.items():
            seconds(command, exit_code)  # once for the caches of files and bytecode
            median = statistics.median(seconds(command, exit_code) for _ in range(REPETITIONS))
            print(f"{name:<26} {median:.3f} s, wanted: less than {limit} s")


if __name__ == "__main__":
    main()
