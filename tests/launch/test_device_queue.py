"""Devices are given in the order of asking, and never while another run holds them."""

from __future__ import annotations

import functools
from pathlib import Path

from tests.helpers.process import wait_until
from tests.helpers.supervisors import Supervisors
from workbench.launch.device_queue import Holder, Ticket, places
from workbench.launch.place import place
from workbench.store.directory import RunDirectory


def test_the_second_supervisor_waits_for_the_device_and_can_be_cancelled_there(supervisors: Supervisors) -> None:
    first, _ = supervisors.start("cancel")
    wait_until(lambda: first.status().state == "running")
    second, waiting = supervisors.start("none", "run-2")
    wait_until(lambda: second.status().message.startswith("waiting for free CPU cores (1 run ahead; held by run run-1 of user "))
    assert second.status().state == "queued"
    second.request_cancel()
    assert waiting.wait() == 0
    assert (second.status().state, first.status().state) == ("cancelled", "running")


def test_devices_are_given_in_the_order_of_asking(tmp_path: Path) -> None:
    take = functools.partial(Ticket, holder=Holder("a run"), queue=tmp_path / "queue")
    tickets = [take(["cuda:0"]), take(["cuda:1"]), take(["cuda:0", "cuda:1"]), take(["cuda:0"])]
    assert [ticket.is_first() for ticket in tickets] == [True, True, False, False]
    tickets[0].release()
    assert [ticket.is_first() for ticket in tickets[1:]] == [True, False, False], "nobody overtakes the third"
    tickets[1].release()
    assert [ticket.is_first() for ticket in tickets[2:]] == [True, False]
    for ticket in tickets[2:]:
        ticket.release()


def test_runs_that_wait_for_the_same_baseline_start_in_the_order_of_their_submission(supervisors: Supervisors) -> None:
    def take(run: RunDirectory) -> Ticket:
        ticket = place(run, run.record())
        assert ticket
        return ticket

    base = supervisors.new("base")
    supervisors.supervise(base, "cancel", take(base))
    wait_until(lambda: base.status().state == "running")
    runs = [supervisors.new(f"run-{letter}", baseline_run_id="base") for letter in "dcba"]
    tickets = [take(run) for run in runs]
    later = supervisors.new("later")
    of_later = take(later)
    supervisors.supervise(later, "none", of_later)  # it waits for no baseline, and yet for those before it
    for run, ticket in reversed([*zip(runs, tickets, strict=True)]):  # supervisors may start in any order
        supervisors.supervise(run, "none", ticket)
    wait_until(lambda: all(run.status().message == "waiting for its single-worker baseline" for run in runs))
    wait_until(lambda: later.status().message.startswith("waiting for free CPU cores (5 runs ahead; held by run base of user "))
    base.request_cancel()
    assert [process.wait() for process in supervisors.started] == [0] * 6
    began = [run.events(0)[0][0].time for run in (*runs, later)]
    assert began == sorted(began)


def test_a_run_has_no_place_before_a_baseline_that_has_none(supervisors: Supervisors) -> None:
    base, run = supervisors.new("base", waits_for_quiet=True), supervisors.new("run-1", baseline_run_id="base")
    assert place(run, run.record()) is None, "it would wait for a run that waits for it"
    of_base = place(base, base.record())
    ticket = place(run, run.record())
    assert of_base
    assert ticket
    assert ticket.ahead()[0].is_run("base", supervisors.path.resolve())
    assert place(run, run.record(), ticket) is ticket
    of_base.release()  # the machine was not quiet any more
    again = place(base, base.record())
    assert again
    assert place(run, run.record(), ticket) is None
    assert again.is_first()
    again.release()


def test_a_ticket_that_is_handed_on_ends_with_the_process_that_took_it(supervisors: Supervisors) -> None:
    run = supervisors.new("run-1")
    ticket = place(run, run.record())
    supervisor = supervisors.supervise(run, "cancel", ticket)
    wait_until(lambda: run.status().state == "running")
    assert [(entry.devices, entry.holder.pid) for entry in places()] == [({"cpu"}, supervisor.pid)]
    supervisor.kill()
    wait_until(lambda: not places())
    assert not list(supervisors.queue.glob("*.ticket"))
