"""The runs of a store that have not ended."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from workbench.errors import DamagedRunError
from workbench.store.directory import RunDirectory
from workbench.store.state import state_of


class ActiveRuns:
    """The runs of a store that have not ended: queued, starting or running. Ended runs are read only once, so that a view can
    poll every second without disturbing measurements."""

    def __init__(self, store: Path) -> None:
        self._runs, self._ended = store / "runs", set[str]()

    def read(self) -> list[RunDirectory]:
        """Returns the runs in the order of their submission."""
        runs = []
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self._runs):
                if entry.name in self._ended:
                    continue
                run = RunDirectory(Path(entry.path))
                if not (run.path / "status.json").exists():
                    continue  # being created
                try:
                    if state_of(run).is_terminal:
                        self._ended.add(entry.name)
                    else:
                        runs.append((run.record().created_at, entry.name, run))
                except (DamagedRunError, FileNotFoundError):
                    continue
        return [run for _, _, run in sorted(runs, key=lambda entry: entry[:2])]
