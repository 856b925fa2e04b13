"""A run is lost where that is known, and nobody else says so."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.run_directory import new_run
from workbench.store.processes import Origin, ProcessIdentity, this_origin, this_process
from workbench.store.run_status import RunState, RunStatus
from workbench.store.state import state_of, status_of

_PLACE = ("a", "an id", "an uptime", "a namespace")
_HERE = Origin(*_PLACE)
_ANOTHER = {"host": "b", "boot_id": "another", "machine_id": "another"}
ALIVE = replace(this_process(), origin=_HERE)
_DEAD = replace(ALIVE, create_time=ALIVE.create_time - 5, start_ticks=(ALIVE.start_ticks or 0) - 500)
_HOUR = 3600.0


def _elsewhere(process: ProcessIdentity, **origin: Any) -> ProcessIdentity:
    return replace(process, origin=replace(process.origin, **origin))


@pytest.mark.parametrize(
    ("supervisor", "silent_s", "state", "recorded"),
    [
        pytest.param(ALIVE, _HOUR, "running", "running", id="alive"),
        pytest.param(replace(ALIVE, create_time=1.0), _HOUR, "running", "running", id="clock step"),
        pytest.param(_DEAD, None, "lost", "lost", id="another process has the number"),
        pytest.param(_elsewhere(_DEAD, pid_namespace="another"), 0.0, "running", "running", id="container"),
        pytest.param(_elsewhere(_DEAD, pid_namespace="another"), _HOUR, "lost", "running", id="silent container"),
        pytest.param(_elsewhere(_DEAD, **_ANOTHER), 0.0, "running", "running", id="host"),
        pytest.param(
            _elsewhere(_DEAD, boot_id="another", machine_id="another", host="b"), _HOUR, "lost", "running", id="silent host"
        ),
        pytest.param(_elsewhere(_DEAD, boot_id="another"), 0.0, "running", "running", id="the same ids"),
        pytest.param(_elsewhere(_DEAD, boot_id="another"), _HOUR, "lost", "lost", id="restarted"),
        pytest.param(ProcessIdentity(ALIVE.pid, ALIVE.create_time), _HOUR, "running", "running", id="earlier version"),
        pytest.param(ProcessIdentity(ALIVE.pid, 1.0), _HOUR, "lost", "lost", id="lost, earlier version"),
    ],
)
def test_a_run_is_recorded_as_lost_where_its_supervisor_is_known_to_have_ended(
    tmp_path: Path,
    supervisor: ProcessIdentity,
    silent_s: float | None,
    state: str,
    recorded: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("workbench.store.processes._place", lambda: _PLACE)
    run = new_run(tmp_path)
    heartbeat = None if silent_s is None else time.time() - silent_s
    run.write_status(RunStatus(RunState.RUNNING, supervisor=supervisor, heartbeat=heartbeat))
    if heartbeat is not None:
        os.utime(run.path / "status.json", (heartbeat, heartbeat))
    assert state_of(run) == state
    assert run.status().state == recorded
    if state != recorded:
        assert "no sign of life from the supervisor on" in status_of(run).message
        assert "60 minutes; whether it has ended cannot be known here" in status_of(run).message


@pytest.mark.parametrize(
    ("age_s", "changes", "file_age_s", "state"),
    [
        (0.0, {}, 3600, "queued"),
        (3600.0, {}, 0, "lost"),
        (0.0, {"boot_id": "another", "machine_id": "another"}, 200, "queued"),
        (0.0, {"boot_id": "", "host": ""}, 0, "queued"),
        (0.0, {"boot_id": "", "host": ""}, 3600, "lost"),
    ],
    ids=["clock step", "not started", "host", "earlier version", "not started, earlier version"],
)
def test_a_step_of_the_clock_loses_no_run_that_starts(
    tmp_path: Path, age_s: float, changes: dict[str, str], file_age_s: float, state: str
) -> None:
    run, here = new_run(tmp_path), this_origin()
    submitted = replace(here, uptime_s=here.uptime_s - age_s, **changes)
    run.write_status(RunStatus(RunState.QUEUED, submitted=submitted))
    for name in ("run.json", "status.json"):
        os.utime(run.path / name, (time.time() - file_age_s,) * 2)
    assert state_of(run) == state
