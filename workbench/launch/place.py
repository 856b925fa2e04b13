"""The place of a run in the device queue, which it has from its submission on, so that runs start in the order of submission.

A run waits for its baselines while it has a place. That ends only if these do not wait for the run, so that a run has a place
only while each of its baselines that has not ended has an earlier one. A run that waits for a quiet machine has none until the
machine is quiet, and then neither have the runs that are compared with it; nor do they hold up others meanwhile.
"""

from __future__ import annotations

from pathlib import Path

from workbench.launch.device_queue import Holder, LockedTicket, Ticket, locked_tickets
from workbench.store.directory import RunDirectory
from workbench.store.records import RunRecord
from workbench.store.state import state_of


def devices(record: RunRecord) -> list[str]:
    """Returns the devices of a run: ``["cpu"]`` or ``["cuda:0", "cuda:1"]``."""
    return ["cpu"] if record.device == "cpu" else [f"cuda:{number}" for number in range(record.num_workers)]


def unfinished_baselines(run: RunDirectory, record: RunRecord) -> list[str]:
    """Returns the ids of the baselines of a run that have not ended."""
    runs = run.path.parent
    return [other for other in record.baseline_ids if not state_of(RunDirectory(runs / other)).is_terminal]


def take_ticket(run: RunDirectory, record: RunRecord, ticket: Ticket | None = None) -> Ticket | None:
    """Returns the ticket that a run has from now on: its present one, a new one, or none if a baseline that has not ended is not
    before it."""
    in_queue = locked_tickets() if (baselines := unfinished_baselines(run, record)) else []
    numbers = [_number(in_queue, run, baseline) for baseline in baselines]
    if None in numbers or (ticket and any(number and number > ticket.number for number in numbers)):
        if ticket:
            ticket.release()
        return None
    return ticket or Ticket(devices(record), Holder(f"run {run.id}", str(_store(run))))


AWAITED_BASELINE = "waiting for its single-worker baseline"


def awaited_devices(device: str, num_ahead: int, holder: str = "") -> str:
    """Returns ``waiting for free CPU cores (2 ahead; held by run 20261124-101530-dp2-3f9a2c of user ada)``. Not all that is ahead
    is a run."""
    kind = "CPU cores" if device == "cpu" else "GPUs"
    return f"waiting for free {kind} ({num_ahead} ahead" + (f"; held by {holder})" if holder else ")")


def _store(run: RunDirectory) -> Path:
    return run.path.resolve().parent.parent


def _number(in_queue: list[LockedTicket], run: RunDirectory, run_id: str) -> int | None:
    """Returns the number of the ticket of another run of the store; None if it has none."""
    return next((ticket.number for ticket in in_queue if ticket.holder.is_run(run_id, _store(run))), None)
