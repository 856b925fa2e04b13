"""The queue: what runs and what waits on this machine, in the order of execution."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from workbench.api.stored_run import Run
from workbench.errors import DamagedRunError
from workbench.launch.device_queue import LockedTicket, locked_tickets
from workbench.launch.place import AWAITED_BASELINE, awaited_devices, devices
from workbench.store.active import ActiveRuns
from workbench.store.directory import RunDirectory
from workbench.store.records import RunRecord
from workbench.store.run_status import RunState
from workbench.store.state import status_of

_HAVE_DEVICES = (RunState.STARTING, RunState.RUNNING)


@dataclass(frozen=True)
class QueueEntry:
    """A run that has not ended, or whatever else holds or awaits devices, such as a calibration."""

    description: str
    """``run 20261124-101530-dp2-3f9a2c of user ada (store /home/ada/runs)``; text of other programs, never markup."""

    devices: frozenset[str]

    run: Run | None = None
    """None if it is not of this store."""

    record: RunRecord | None = None
    state: RunState | None = None

    group: str = ""
    """The label of the run."""

    num_ahead: int | None = None
    """Earlier entries that have one of its devices; None if it has no place in the queue yet."""

    reason: str = ""
    """What a queued run waits for, as a sentence; empty for others."""

    @property
    def id(self) -> str:
        """Id of the run, or the description of what is not of this store."""
        return self.run.id if self.run else self.description

    @property
    def has_devices(self) -> bool:
        """Whether it runs now."""
        return self.state in _HAVE_DEVICES if self.run else self.num_ahead == 0


class Queue:
    """The runs of a store that are queued or running, and what is before them on the machine. Ended runs and records are read
    only once, so that a view can poll every second."""

    def __init__(self, store: Path) -> None:
        self._store, self._runs = store.resolve(), ActiveRuns(store)
        self._records: dict[str, RunRecord] = {}

    def active(self) -> list[Run]:
        """Returns the runs of the store in the order of their submission."""
        return [Run(directory) for directory in self._runs.read()]

    def record(self, run_id: str) -> RunRecord:
        """Returns the record of a run of the store."""
        if run_id not in self._records:
            self._records[run_id] = RunDirectory(self._store / "runs" / run_id).record()
        return self._records[run_id]

    def entries(self) -> list[QueueEntry]:
        """Returns what runs, then what waits in the order of execution, then runs of the store that have no place yet. Runs that
        cannot be read, such as one that was purged just now, are left out."""
        active = {f"run {directory.id}": directory for directory in self._runs.read()}
        ids = {directory.id for directory in active.values()}
        tickets, entries = locked_tickets(), list[QueueEntry | None]()
        for number, ticket in enumerate(tickets):
            num_ahead = sum(bool(ticket.devices & other.devices) for other in tickets[:number])
            is_own = ticket.holder.store == str(self._store) and ticket.holder.activity in active
            entries.append(
                self._of_run(active.pop(ticket.holder.activity), ids, ticket, num_ahead)
                if is_own
                else QueueEntry(ticket.holder.description(self._store), ticket.devices, num_ahead=num_ahead)
            )
        entries += [self._of_run(directory, ids) for directory in active.values()]
        return sorted((entry for entry in entries if entry), key=lambda entry: not entry.has_devices)

    def _of_run(
        self, directory: RunDirectory, active: set[str], ticket: LockedTicket | None = None, num_ahead: int | None = None
    ) -> QueueEntry | None:
        try:
            record, status, labels = self.record(directory.id), status_of(directory), directory.labels()
        except (DamagedRunError, FileNotFoundError):
            return None
        reason = ""
        if status.state is RunState.QUEUED:
            if active & set(record.baseline_ids):
                reason = f"Queued: {AWAITED_BASELINE}"
            elif num_ahead:
                reason = f"Queued: {awaited_devices(record.device, num_ahead)}"
            else:
                reason = f"Queued: {status.message}" if status.message else "Queued"
        return QueueEntry(
            description=f"run {directory.id}",
            devices=ticket.devices if ticket else frozenset(devices(record)),
            run=Run(directory),
            record=record,
            state=status.state,
            group=labels.group or "",
            num_ahead=num_ahead,
            reason=reason,
        )
