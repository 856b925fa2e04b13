"""The runs that have not ended: which there are, and how one is cancelled."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from workbench.errors import DamagedRunError
from workbench.store import listing
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
        """Asks for the end of a run and of those of its baselines that no other run waits for; returns their ids."""
        live = {other.id: other for other in self.live()}
        needs = {other.id: baselines_of(other) for other in live.values() if run.id not in baselines_of(other)}
        asked = [run.id] if run.id in live else []
        # The second baseline may itself wait for the first.
        for baseline in reversed(baselines_of(run)):
            if baseline in live and not any(baseline in needed for run_id, needed in needs.items() if run_id not in asked):
                asked.append(baseline)
        for run_id in asked:
            live[run_id].request_cancel()
        return asked


def baselines_of(run: RunDirectory) -> list[str]:
    """Ids of the runs on one worker that it is compared with."""
    record = run.record()
    ids = (record.get("baseline_run_id"), record.get("same_cores_baseline_run_id"))
    return [other for other in dict.fromkeys(ids) if other and other != run.id]
