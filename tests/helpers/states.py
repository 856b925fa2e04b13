"""Runs that wait, run or have finished; nothing is started."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psutil

from tests.helpers.run_directory import new_run
from workbench.store.directory import RunDirectory
from workbench.store.figures import Summary
from workbench.store.processes import ProcessIdentity
from workbench.store.run_status import RunState, RunStatus, WorkerStatus

ALIVE = ProcessIdentity(os.getpid(), psutil.Process().create_time())


def live(store: Path, run_id: str, created_at: float, state: str = "queued", **record: Any) -> RunDirectory:
    run = new_run(store, run_id, created_at=created_at, **record)
    run.write_status(RunStatus(RunState(state), supervisor=ALIVE, workers=(WorkerStatus(0, os.getpid(), "cpu"),)))
    return run


def finished(store: Path, run_id: str, created_at: float, step_time_s: float, **record: Any) -> RunDirectory:
    run = new_run(store, run_id, created_at=created_at, split="dp2", dataset="text", **record)
    run.write_status(RunStatus(RunState.FINISHED))
    run.write_summary(Summary(step_time_s=step_time_s, parity_ok=True, parity_verdict="equal"))
    return run
