"""The state of a run, also of one whose supervisor died before it could say."""

from __future__ import annotations

from dataclasses import replace

from workbench.store.directory import RunDirectory
from workbench.store.run_status import RunState, RunStatus

_SUPERVISOR_START_S = 60.0


def state_of(run: RunDirectory) -> RunState:
    """Returns the run's state. A run whose supervisor ended before the run is recorded as lost."""
    return status_of(run).state


def status_of(run: RunDirectory) -> RunStatus:
    """Returns the run's status, with the state as ``state_of`` returns it."""
    status = run.status()
    if not status.state.is_terminal and _supervisor_has_ended(run, status):
        status = run.status()  # it may have ended in the meantime
        if not status.state.is_terminal:
            message = "the supervisor process is gone" if status.supervisor else "the supervisor did not start"
            status = replace(status, state=RunState.LOST, message=message)
            try:
                run.write_status(status)
            except OSError as error:  # a full disk, which also ends supervisors, or a store that is only readable
                status = replace(status, message=f"{message}; the store cannot be written: {error.strerror}")
    return status


def _supervisor_has_ended(run: RunDirectory, status: RunStatus) -> bool:
    import time

    import psutil

    if status.supervisor is None:
        return time.time() - (run.path / "run.json").stat().st_mtime > _SUPERVISOR_START_S
    try:
        process = psutil.Process(status.supervisor.pid)
        # A killed supervisor stays a zombie while the front end that started it without the server runs.
        return bool(process.create_time() != status.supervisor.create_time or process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
