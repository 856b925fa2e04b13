"""Devices are given in the order of asking, and never while another run holds them."""

from __future__ import annotations

import errno
import fcntl
import functools
import multiprocessing
import os
import pwd
import time
from pathlib import Path

import pytest

from tests.helpers.process import wait_until
from tests.helpers.supervisors import Supervisors
from workbench.errors import RunFailedError
from workbench.launch.device_queue import Holder, Ticket, locked_tickets
from workbench.launch.place import take_ticket
from workbench.store.directory import RunDirectory


def test_the_second_supervisor_waits_for_the_device_and_can_be_cancelled_there(supervisors: Supervisors) -> None:
    first, _ = supervisors.start("cancel")
    wait_until(lambda: first.status().state == "running")
    second, waiting = supervisors.start("none", "run-2")
    wait_until(lambda: second.status().message.startswith("waiting for free CPU cores (1 ahead; held by run run-1 of user "))
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
        ticket = take_ticket(run, run.record())
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
    wait_until(lambda: later.status().message.startswith("waiting for free CPU cores (5 ahead; held by run base of user "))
    base.request_cancel()
    assert [process.wait() for process in supervisors.started] == [0] * 6
    began = [run.events(0)[0][0].time for run in (*runs, later)]
    assert began == sorted(began)


def test_a_run_has_no_place_before_a_baseline_that_has_none(supervisors: Supervisors) -> None:
    base, run = supervisors.new("base", waits_for_quiet=True), supervisors.new("run-1", baseline_run_id="base")
    assert take_ticket(run, run.record()) is None, "it would wait for a run that waits for it"
    of_base = take_ticket(base, base.record())
    ticket = take_ticket(run, run.record())
    assert of_base
    assert ticket
    assert ticket.ahead()[0].is_run("base", supervisors.path.resolve())
    assert take_ticket(run, run.record(), ticket) is ticket
    of_base.release()  # the machine was not quiet any more
    again = take_ticket(base, base.record())
    assert again
    assert take_ticket(run, run.record(), ticket) is None
    assert again.is_first()
    again.release()


def test_a_ticket_that_is_handed_on_ends_with_the_process_that_took_it(supervisors: Supervisors) -> None:
    run = supervisors.new("run-1")
    ticket = take_ticket(run, run.record())
    supervisor = supervisors.supervise(run, "cancel", ticket)
    wait_until(lambda: run.status().state == "running")
    assert [(entry.devices, entry.holder.pid) for entry in locked_tickets()] == [({"cpu"}, supervisor.pid)]
    supervisor.kill()
    wait_until(lambda: not locked_tickets())
    assert not list(supervisors.queue.glob("*.ticket"))


def test_a_ticket_that_cannot_be_written_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pwrite(file: int, text: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    first = Ticket(["cpu"], Holder("first"), tmp_path)
    with monkeypatch.context() as full_disk:
        for write in (pwrite, lambda file, text, offset: 5):
            full_disk.setattr(os, "pwrite", write)
            with pytest.raises(OSError, match=r"No space|only 5 of"):
                Ticket(["cpu"], Holder("second"), tmp_path)
            with pytest.raises(OSError, match=r"No space|only 5 of"):
                first.inherited(first.path, first.file)
    third = Ticket(["cpu"], Holder("third"), tmp_path)
    assert [ticket.holder.activity for ticket in locked_tickets(tmp_path)] == ["first", "third"]
    assert [holder.activity for holder in third.ahead()] == ["first"]
    assert len(list(tmp_path.glob("*.ticket"))) == 2
    first.release(), third.release()


@pytest.mark.parametrize("text", [b"", b"[", b'{"cpu": 1}', b"[1]", b'["cpu", "pid=x"]', b"\xff", b"[" * 60000])
def test_a_locked_file_that_is_no_ticket_holds_up_nobody(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "1.ticket").write_bytes(text)
    with (tmp_path / "1.ticket").open() as garbage:
        fcntl.flock(garbage, fcntl.LOCK_EX)
        ticket = Ticket(["cpu"], Holder("a run"), tmp_path)
        assert [entry.number for entry in locked_tickets(tmp_path)] == [ticket.number]
        assert ticket.is_first()
        assert (tmp_path / "1.ticket").exists()
    ticket.release()


@pytest.mark.parametrize("is_locked", [False, True])
def test_files_of_others_do_not_break_the_queue(tmp_path: Path, is_locked: bool) -> None:
    (tmp_path / "mine.ticket").touch(), (tmp_path / "²x.ticket").touch(), (tmp_path / "-3.ticket").touch()
    (tmp_path / "1.ticket").mkdir(), os.mkfifo(tmp_path / "2.ticket"), (tmp_path / "3.ticket").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "mutex")  # of earlier versions
    last = tmp_path / f"{'9' * 248}.ticket"  # no number after this one is a file's name
    last.write_text('["cpu"]')
    with last.open() as file:
        if is_locked:
            fcntl.flock(file, fcntl.LOCK_EX)
        ticket = Ticket(["cpu"], Holder("a run"), tmp_path)
        assert ticket.is_first()
    ticket.release()


def test_a_holder_is_the_owner_of_the_file(tmp_path: Path) -> None:
    ticket = Ticket(["cpu"], Holder("a run", user="someone else"), tmp_path)
    assert [entry.holder.user for entry in locked_tickets(tmp_path)] == [pwd.getpwuid(os.getuid()).pw_name]
    ticket.release()


def test_a_ticket_that_appears_before_a_later_one_leaves_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = []

    def overtaken(path: Path, target: Path) -> None:
        if not others:
            others.append(None)  # the other one is linked as usual
            others[0] = Ticket(["cpu"], Holder("faster"), tmp_path)
        link(path, target)

    link = Path.hardlink_to
    monkeypatch.setattr(Path, "hardlink_to", overtaken)
    ticket = Ticket(["cpu"], Holder("slower"), tmp_path)
    assert [holder.activity for holder in ticket.ahead()] == ["faster"]
    assert others[0].is_first()
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".ticket", ".ticket"]


@pytest.mark.parametrize("obstacle", ["file", "missing link"])
def test_a_queue_that_cannot_be_used_is_named_with_its_owner(tmp_path: Path, obstacle: str) -> None:
    queue = tmp_path / "queue"
    if obstacle == "file":
        queue.touch()
    else:
        queue.symlink_to(tmp_path / "missing" / "place")
    with pytest.raises(RunFailedError, match=rf"device queue {queue} of user \w+ cannot be used: .*WORKBENCH_DEVICE_QUEUE"):
        Ticket(["cpu"], Holder("a run"), queue)
    assert locked_tickets(queue) == []


def _take_turns(queue: Path, record: Path) -> None:
    for _ in range(15):
        ticket = Ticket(["cpu"], Holder("a run"), queue)
        while not ticket.is_first():
            time.sleep(0.001)
        for event in ("start", "end"):
            with record.open("a") as file:
                file.write(f"{event} {os.getpid()}\n")
        ticket.release()


def test_no_two_of_several_processes_are_first(tmp_path: Path) -> None:
    queue, record = tmp_path / "queue", tmp_path / "record"
    processes = [multiprocessing.get_context("spawn").Process(target=_take_turns, args=(queue, record)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(200)
    lines = record.read_text().splitlines()
    assert len(lines) == 4 * 15 * 2
    assert [line.split()[0] for line in lines] == ["start", "end"] * 60
    assert all(first.split()[1] == second.split()[1] for first, second in zip(lines[::2], lines[1::2], strict=True))
    assert not list(queue.iterdir())
