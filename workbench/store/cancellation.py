"""Cancellation: ends a run and the baselines that only this run needs. The CLI, the API and all views use it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workbench.errors import DamagedRunError
from workbench.store import listing
from workbench.store.directory import RunDirectory


def cancel(run: RunDirectory, active: Sequence[RunDirectory] | None = None) -> list[RunDirectory]:
    """Requests the cancellation of a run and of its baselines that were started as baselines and that no other run waits for.
    Returns the cancelled runs, this one first.

    Args:
        active: the store's runs that have not ended; by default they are looked up.
    """
    if listing.state_of(run).is_terminal:
        return []
    other_runs = {other.id: other for other in (active_runs(run) if active is None else active) if other.id != run.id}
    run.request_cancel()
    cancelled = [run]
    for baseline in reversed(baseline_ids(run)):  # the second baseline may itself wait for the first
        needed_by = (other for other in other_runs.values() if other.id != baseline and not other.cancel_requested())
        if baseline not in other_runs or any(baseline in baseline_ids(other) for other in needed_by):
            continue
        if other_runs[baseline].record().get("started_as_baseline", True):  # a run that was submitted by itself continues
            other_runs[baseline].request_cancel()
            cancelled.append(other_runs[baseline])
    return cancelled


def active_runs(run: RunDirectory) -> list[RunDirectory]:
    """Returns the runs in the same store that have not ended."""
    active = []
    for other in listing.all_runs(run.path.parent.parent):
        with contextlib.suppress(DamagedRunError, FileNotFoundError):
            if not listing.state_of(other).is_terminal:
                active.append(other)
    return active


def baseline_ids(run: RunDirectory) -> list[str]:
    """Returns the ids of the runs on one worker that the run is compared with."""
    record = run.record()
    ids = (record.get("baseline_run_id"), record.get("same_cores_baseline_run_id"))
    return [other for other in dict.fromkeys(ids) if other and other != run.id]


@dataclass
class Queue:
    """The runs of a store that are queued or running. Ended runs are read only once, so that a view can poll every second without
    disturbing measurements."""

    store: Path
    _ended: set[str] = field(default_factory=set)

    def active(self) -> list[RunDirectory]:
        """Returns the runs in the order of their submission."""
        runs = []
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self.store / "runs"):
                if entry.name in self._ended:
                    continue
                run = RunDirectory(Path(entry.path))
                if not (run.path / "status.json").exists():
                    continue  # being created
                try:
                    if listing.state_of(run).is_terminal:
                        self._ended.add(entry.name)
                    else:
                        runs.append((run.record().get("created_at", 0.0), entry.name, run))
                except (DamagedRunError, FileNotFoundError):
                    continue
        return [run for _, _, run in sorted(runs, key=lambda entry: entry[:2])]

    def cancel(self, run: RunDirectory) -> list[str]:
        """Cancels a run as ``cancel`` does; returns the ids of the cancelled runs."""
        return [cancelled.id for cancelled in cancel(run, self.active())]
