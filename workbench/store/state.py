"""The state of a run, also of one whose supervisor died before it could write it."""

from __future__ import annotations

import time
from dataclasses import replace

from workbench.messages import counted
from workbench.store.directory import RunDirectory
from workbench.store.run_status import RunState, RunStatus

_SUPERVISOR_START_S = 120.0
"""Longer than the submission waits for the fork server before it starts the supervisor otherwise."""
_SILENCE_S = 300.0
"""Silence of a supervisor, whose heartbeat is due every second, after which its run is shown as lost where its process cannot be
seen."""


def state_of(run: RunDirectory) -> RunState:
    """Returns the run's state. A run whose supervisor ended before the run is recorded as lost."""
    return status_of(run).state


def status_of(run: RunDirectory) -> RunStatus:
    """Returns the run's status, with the state as ``state_of`` returns it.

    A run is recorded as lost where it is known that its supervisor has ended: by processes on the same machine that see its
    number. Others, as in another container or on another host with the same store, only return it as lost, once the supervisor
    has been silent for long.
    """
    status = run.status()
    if status.state.is_terminal:
        return status
    message = _why_lost(run, status)
    if message is None and (silent_s := _silent_s(run, status)) > _SILENCE_S:
        where = (status.supervisor.origin if status.supervisor else status.submitted).host or "another machine"
        message = f"no sign of life from the supervisor on {where} for {counted(round(silent_s / 60), 'minute')}"
        return replace(status, state=RunState.LOST, message=f"{message}; whether it has ended cannot be known here")
    if not message:
        return status
    status = run.status()  # it may have ended in the meantime
    if status.state.is_terminal:
        return status
    status = replace(status, state=RunState.LOST, message=message)
    try:
        run.write_status(status)
    except OSError as error:  # a full disk, which also ends supervisors, or a store that is only readable
        status = replace(status, message=f"{message}; the store cannot be written: {error.strerror}")
    return status


def _why_lost(run: RunDirectory, status: RunStatus) -> str | None:
    """Returns why the run is lost; empty if it is not; None if that cannot be known here."""
    if status.supervisor is not None:
        has_ended = status.supervisor.has_ended()
        if status.supervisor.origin.has_restarted and _silent_s(run, status) <= _SILENCE_S:
            has_ended = None  # copies of an image may share host and id
        return "the supervisor process is gone" if has_ended else "" if has_ended is False else None
    if status.submitted.has_restarted and _silent_s(run, status) > _SILENCE_S:
        return "the machine restarted before the supervisor started"
    age_s = status.submitted.age_s if status.submitted.boot_id else _file_age_s(run, "run.json")
    return None if age_s is None else "the supervisor did not start" if age_s > _SUPERVISOR_START_S else ""


def _silent_s(run: RunDirectory, status: RunStatus) -> float:
    """Returns the seconds since the status was written, by the clocks of the machine and of the file system."""
    return min(time.time() - (status.heartbeat or 0.0), _file_age_s(run, "status.json"))


def _file_age_s(run: RunDirectory, name: str) -> float:
    return time.time() - (run.path / name).stat().st_mtime
