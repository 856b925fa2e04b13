"""Cancelling: what it means everywhere, to end a run and the baselines that only it needs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workbench.errors import DamagedRunError
from workbench.store import listing
from workbench.store.directory import TERMINAL, RunDirectory


def cancel(run: RunDirectory, live: Sequence[RunDirectory] | None = None) -> list[RunDirectory]:
    """Requests the end of a run and of those of its baselines that were started as baselines and that no other run still waits
    for; returns the runs that were asked to end, this one first.

    Args:
        live: the store's runs that have not ended, where the caller knows them; by default they are looked up.
    """
    if listing.state_of(run) in TERMINAL:
        return []
    others = {other.id: other for other in (live_runs(run) if live is None else live) if other.id != run.id}
    run.request_cancel()
    asked = [run]
    for baseline in reversed(baselines_of(run)):  # the second baseline may itself wait for the first
        needed_by = (other for other in others.values() if other.id != baseline and not other.cancel_requested())
        if baseline not in others or any(baseline in baselines_of(other) for other in needed_by):
            continue
        if others[baseline].record().get("started_as_baseline", True):  # a run that was asked for itself goes on
            others[baseline].request_cancel()
            asked.append(others[baseline])
    return asked


def live_runs(run: RunDirectory) -> list[RunDirectory]:
    """The runs in the same store that have not ended."""
    live = []
    for other in listing.all_runs(run.path.parent.parent):
        with contextlib.suppress(DamagedRunError, FileNotFoundError):
            if listing.state_of(other) not in TERMINAL:
                live.append(other)
    return live


def baselines_of(run: RunDirectory) -> list[str]:
    """Ids of the runs on one worker that it is compared with."""
    record = run.record()
    ids = (record.get("baseline_run_id"), record.get("same_cores_baseline_run_id"))
    return [other for other in dict.fromkeys(ids) if other and other != run.id]


@dataclass
class Queue:
    """The runs of a store that wait or run. Cheap enough to be asked each second while what is measured needs the processors: a
    run that was seen to have ended is never looked at again."""

    store: Path
    _ended: set[str] = field(default_factory=set)

    def live(self) -> list[RunDirectory]:
        """In the order in which they were submitted."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self.store / "runs"):
                if entry.name in self._ended:
                    continue
                run = RunDirectory(Path(entry.path))
                if not (run.path / "status.json").exists():
                    continue  # only just being made
                try:
                    if listing.state_of(run) in TERMINAL:
                        self._ended.add(entry.name)
                    else:
                        found.append((run.record().get("created_at", 0.0), entry.name, run))
                except (DamagedRunError, FileNotFoundError):
                    continue
        return [run for _, _, run in sorted(found, key=lambda one: one[:2])]

    def cancel(self, run: RunDirectory) -> list[str]:
        """Cancels a run, as everywhere; returns the ids of the runs that were asked to end."""
        return [asked.id for asked in cancel(run, self.live())]
