"""Devices are given in the order of asking, and never while another run holds them."""

from __future__ import annotations

import functools
from pathlib import Path

from tests.helpers.process import wait_until
from tests.helpers.supervisors import Supervisors
from workbench.launch.device_queue import Holder, Ticket


def test_the_second_supervisor_waits_for_the_device_and_can_be_cancelled_there(supervisors: Supervisors) -> None:
    first, _ = supervisors.start("cancel")
    wait_until(lambda: first.status().state == "running")
    second, waiting = supervisors.start("none", "run-2")
    wait_until(lambda: second.status().message.startswith("waiting for cpu: held by run run-1 of user "))
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
