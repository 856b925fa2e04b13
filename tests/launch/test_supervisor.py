"""A supervisor waits for what its run needs, ends its workers, and alone writes how the run ended."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers.process import wait_until
from tests.helpers.run_directory import new_run
from tests.helpers.supervisors import Supervisors, is_gone
from workbench.launch.device_queue import Holder, Ticket
from workbench.launch.supervisor import Cancelled, Supervisor
from workbench.spec import RunSpec
from workbench.spec.files import dumps
from workbench.store.figures import Summary
from workbench.store.run_status import RunState, RunStatus
from workbench.store.state import state_of


@pytest.mark.parametrize(("fault", "message"), [("none", ""), ("late", "worker 1 exited with code 3 after it finished")])
def test_a_run_whose_workers_finished_is_finished(supervisors: Supervisors, fault: str, message: str) -> None:
    run, supervisor = supervisors.start(fault)
    assert supervisor.wait() == 0
    assert (run.status().state, run.status().message) == ("finished", message)
    assert run.summary().step_time_s == 0.5


def test_a_cancelled_run_ends_even_workers_that_ignore_sigterm(supervisors: Supervisors) -> None:
    run, supervisor = supervisors.start("cancel")
    wait_until(lambda: run.status().state == "running")
    run.request_cancel()
    assert supervisor.wait() == 0
    assert run.status().state == "cancelled"
    assert all(is_gone(worker.pid) for worker in run.status().workers)


def test_a_supervisor_that_starts_late_leaves_a_run_that_has_ended(tmp_path: Path) -> None:
    run = new_run(tmp_path, "run-1", dumps(RunSpec()))
    ended = RunStatus(RunState.CANCELLED, "interrupted before it started")
    run.write_status(ended)
    run.request_cancel()
    Supervisor(run).run()
    assert run.status() == ended


def test_a_run_waits_for_its_baseline(supervisors: Supervisors) -> None:
    baseline = new_run(supervisors.path, "base", dumps(RunSpec()))
    run, supervisor = supervisors.start("none", baseline_run_id="base")
    wait_until(lambda: run.status().message == "waiting for its single-worker baseline")
    baseline.write_summary(Summary(step_time_s=1.0))
    baseline.write_status(RunStatus(RunState.FINISHED))
    assert supervisor.wait() == 0
    assert run.summary().speedup == 2.0


def test_a_run_that_waits_for_its_baseline_reads_it_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new_run(tmp_path, "base")
    supervisor = Supervisor(new_run(tmp_path, "run-1", baseline_run_id="base"))
    monkeypatch.setenv("WORKBENCH_DEVICE_QUEUE", str(tmp_path / "devices"))
    calls: list[str] = []

    def pause() -> None:
        calls.append("pause")
        if calls.count("pause") == 100:
            raise Cancelled

    monkeypatch.setattr(supervisor, "_pause", pause)
    monkeypatch.setattr("workbench.launch.supervisor.unfinished_baselines", lambda *_: calls.append("look") or ["base"])
    supervisor.run()
    assert calls.count("look") == 4, "a whole group that does so disturbs the steps of its baseline"


def test_a_run_waits_for_a_quiet_machine_without_the_devices(supervisors: Supervisors) -> None:
    never, waiting = supervisors.start("none", waits_for_quiet=True, max_other_load_cores=-1.0)
    wait_until(lambda: never.status().message.startswith("waiting for a quiet machine: other programs use "))
    other, supervisor = supervisors.start("none", "run-2", waits_for_quiet=True, max_other_load_cores=1e6)
    assert supervisor.wait() == 0
    assert (never.status().state, other.status().state) == ("queued", "finished")
    never.request_cancel()
    assert waiting.wait() == 0
    assert never.status().state == "cancelled"


def test_a_run_that_finds_the_machine_busy_again_leaves_the_queue_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path, "run-1", waits_for_quiet=True)
    supervisor = Supervisor(run)
    monkeypatch.setenv("WORKBENCH_DEVICE_QUEUE", str(tmp_path / "devices"))
    busy_cores = iter([0.0, 0.0, 0.0, 1.5])  # quiet, and busy once it holds the devices
    others: list[Ticket] = []

    def measure(reason: str) -> float:
        if (cores := next(busy_cores, None)) is None:
            others.append(Ticket(["cpu"], Holder("another run")))  # takes the number that has become free
            raise Cancelled
        return cores

    monkeypatch.setattr(supervisor, "_busy_cores", measure)
    supervisor.run()
    assert run.status().state == "cancelled"
    assert others[0].path.exists(), "its place in the queue is still its own"
    others[0].release()


def test_the_workers_of_a_killed_supervisor_die_and_the_run_is_lost(supervisors: Supervisors) -> None:
    run, supervisor = supervisors.start("cancel")
    wait_until(lambda: run.status().state == "running")
    supervisor.kill()
    wait_until(lambda: all(is_gone(worker.pid) for worker in run.status().workers))
    wait_until(lambda: state_of(run) == "lost")  # also while nobody has reaped the supervisor
    following = Ticket(["cpu"], Holder("another run"), supervisors.queue)
    assert following.is_first(), "its ticket is void"
    following.release()


def test_a_process_in_another_pid_namespace_leaves_a_living_run(supervisors: Supervisors) -> None:
    run, process = supervisors.start("cancel")
    wait_until(lambda: run.status().state == "running")
    code = f"from workbench.store.state import *; print(state_of(RunDirectory(__import__('pathlib').Path({str(run.path)!r}))))"
    unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    command = [*unshare, sys.executable, "-c", code]
    if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this system allows no new pid namespaces")
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "running\n"
    assert run.status().state == "running"
    process.kill()
    wait_until(lambda: state_of(run) == "lost")


def test_a_supervisor_whose_run_was_recorded_as_lost_goes_on_and_says_so(supervisors: Supervisors) -> None:
    run, process = supervisors.start("cancel")
    wait_until(lambda: run.status().state == "running")
    run.write_status(replace(run.status(), state=RunState.LOST))
    wait_until(lambda: run.status().state == "running")
    run.request_cancel()
    assert process.wait() == 0
    assert (run.status().state, run.status().message) == (
        "cancelled",
        "cancelled by the user; meanwhile a reader recorded the run as lost",
    )


def test_a_second_supervisor_of_a_run_leaves_it_and_its_ticket(supervisors: Supervisors) -> None:
    run = supervisors.new("run-1")
    ticket = Ticket(["cpu"], Holder("run run-1"), supervisors.queue)
    copy = os.dup(ticket.file)
    supervisors.supervise(run, "cancel", ticket)
    wait_until(lambda: run.status().state == "running")
    pid = run.status().supervisor.pid
    os.set_inheritable(copy, True)
    second = Ticket.inherited(ticket.path, copy)
    again = supervisors.supervise(run, "cancel", second)
    assert again.wait() == 0
    assert (run.status().state, run.status().supervisor.pid) == ("running", pid)
    following = Ticket(["cpu"], Holder("another run"), supervisors.queue)
    assert not following.is_first()
    following.release()
