"""The runs that have not ended."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from workbench.errors import DamagedRunError
from workbench.store import listing
from workbench.store.cancellation import cancel
from workbench.store.run_directory import TERMINAL, RunDirectory


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
