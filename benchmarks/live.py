"""How long the page Live takes for one of its redraws, one per second, while a group of runs is in the queue.

``python benchmarks/live.py`` makes a store of 200 ended runs, one running and eleven queued, draws the page with Streamlit's
tester and prints the median, the shortest and the longest of the redraws, their processor time, which other programs disturb
less, and how many files each opens.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from streamlit.testing.v1 import AppTest

from workbench.store.events import EventWriter, ReadyEvent, StepEvent
from workbench.store.figures import Summary
from workbench.store.records import Labels
from workbench.store.run_status import RunState, RunStatus, SupervisorProcess, WorkerStatus
from workbench.testing.stored_run import stored_run

NUM_ENDED, NUM_QUEUED, NUM_STEPS, REDRAWS = 200, 11, 30, 15
_PAGE = "from workbench.dashboard.pages.live import main\nmain()"


def _fill(store: Path) -> None:
    for number in range(NUM_ENDED):
        split = ("single", "dp2", "layer2", "tp2")[number % 4]
        run = stored_run(store, f"20260101-{number:06d}-{split}", 2, split=split, created_at=1.79e9 + number)
        run.write_summary(Summary(step_time_s=0.1, parity_ok=True, parity_verdict="equal"))
        _write_steps(run.path)
    process = SupervisorProcess(os.getpid(), psutil.Process().create_time())
    workers = tuple(WorkerStatus(rank, os.getpid(), "cpu") for rank in range(2))
    for number in range(1 + NUM_QUEUED):
        baseline = f"20270101-{0:06d}-single" if number else None
        run = stored_run(store, f"20270101-{number:06d}-{'dp2' if number else 'single'}", 2, created_at=1.8e9 + number,
                         baseline_run_id=baseline)  # fmt: skip
        state = RunState.QUEUED if number else RunState.RUNNING
        run.write_status(RunStatus(state, "waiting for its single-worker baseline", process, workers))
        run.write_labels(Labels(group="a group"))
        if not number:
            _write_steps(run.path)


def _write_steps(path: Path) -> None:
    for rank in range(2):
        events = EventWriter(path / "events" / f"rank-{rank}.jsonl")
        events.write(ReadyEvent(rank=rank))
        for step in range(NUM_STEPS):
            events.write(StepEvent(rank=rank, kind="timed", step=step, num_steps=2 * NUM_STEPS, loss=1.0, duration_s=0.1))


class _Opened:
    """Counts the files of the store that this process opens."""

    def __init__(self, store: Path) -> None:
        self.count, self._store = 0, str(store)
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        self.count += event == "open" and str(arguments[0]).startswith(self._store)


def main() -> None:
    """Measures and prints."""
    with tempfile.TemporaryDirectory() as directory:
        _fill(Path(directory))
        os.environ["WORKBENCH_HOME"] = directory
        time.sleep(3)  # what changed just now is read again
        opened, test = _Opened(Path(directory)), AppTest.from_string(_PAGE, default_timeout=120)
        seconds, processor, files = [], [], []
        for _ in range(1 + REDRAWS):
            start, began, before = time.perf_counter(), time.process_time(), opened.count
            test.run()
            seconds.append(time.perf_counter() - start)
            processor.append(time.process_time() - began)
            files.append(opened.count - before)
            assert not test.exception, test.exception
        print(f"Live opens        {seconds[0]:.3f} s, {files[0]} files")
        print(f"Live is redrawn   {statistics.median(seconds[1:]):.3f} s ({min(seconds[1:]):.3f}–{max(seconds[1:]):.3f}),")
        print(f"                  {statistics.median(processor[1:]):.3f} s of processor time, {files[-1]} files")


if __name__ == "__main__":
    main()
