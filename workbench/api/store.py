"""The store: opening, listing and importing runs, and the queue."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from workbench.api.stored_run import Run
from workbench.errors import UsageError
from workbench.plan.parity import VERDICTS
from workbench.store import archive, listing
from workbench.store.active_runs import ActiveRuns
from workbench.store.columns import RUN_COLUMNS, RUN_FIGURES
from workbench.store.directory import RunDirectory, home
from workbench.store.events import ParityEvent, StepEvent
from workbench.store.figures import Summary, WorkerFigures
from workbench.store.index import SETTLED_S
from workbench.store.labels import MAX_NAME, MAX_NOTE
from workbench.store.listing import RUN_ID, survey
from workbench.store.listing import changes as store_changes
from workbench.store.records import TERMINAL, RunError, RunRecord

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "MAX_NAME",
    "MAX_NOTE",
    "RUN_COLUMNS",
    "RUN_FIGURES",
    "RUN_ID",
    "SETTLED_S",
    "TERMINAL",
    "VERDICTS",
    "ParityEvent",
    "Queue",
    "Run",
    "RunError",
    "RunRecord",
    "StepEvent",
    "Summary",
    "WorkerFigures",
    "all_runs",
    "home",
    "import_runs",
    "open_exact",
    "open_run",
    "pack_runs",
    "run_rows",
    "runs",
    "runs_beside",
    "store_changes",
    "survey",
]


def runs() -> pd.DataFrame:
    """All runs of the store, a row each, oldest first."""
    import pandas as pd

    return pd.DataFrame(run_rows(), columns=list(RUN_COLUMNS))


def run_rows() -> list[dict[str, Any]]:
    """The rows of ``runs`` as dicts, which takes no pandas."""
    return listing.rows(home())


def all_runs() -> list[Run]:
    """All runs that were not deleted, oldest first."""
    return [Run(directory) for directory in listing.all_runs(home())]


def open_run(run: Run | str) -> Run:
    """A run of the store by its id, a part of one that is unique, or ``latest``; a run is itself.

    Raises:
        UsageError: none or several, or it is neither.
    """
    if isinstance(run, Run):
        return run
    if not isinstance(run, str):
        raise UsageError(f"requires a run or a run id, but got {run!r}")
    return Run(listing.find(home(), run))


def open_exact(run_id: str) -> Run:
    """The run with exactly this id, deleted or not; nothing outside the store can be named.

    Raises:
        UsageError: there is none.
    """
    return Run(listing.exact(home(), run_id))


def runs_beside(run: Run, run_ids: Iterable[str]) -> list[Run]:
    """Runs of the same store by their ids, which are taken as they are: nothing is read of a run before it is asked for."""
    return [Run(RunDirectory(run.path.parent / run_id)) for run_id in run_ids]


def pack_runs(runs: Iterable[Run]) -> bytes:
    """The runs' directories as a zip file, which ``import_runs`` reads."""
    return archive.pack(run.directory for run in runs)


def import_runs(source: Path | IO[bytes]) -> tuple[list[Run], list[str]]:
    """Copies ended runs from a zip file, a store or a directory of run directories into the store: all of them or, where one
    is damaged, none. Executes nothing.

    Returns:
        the runs that are new here, and the ids of those that were here already, which stay as they are.

    Raises:
        UsageError: it is neither, holds no run, or one that is damaged or has not ended.
    """
    new, present = archive.import_runs(home(), source)
    return [Run(directory) for directory in new], present


class Queue:
    """The runs of a store that are queued or running. Ended runs are read only once, so that a view can poll every second."""

    def __init__(self, store: Path) -> None:
        self._runs = ActiveRuns(store)

    def active(self) -> list[Run]:
        """Returns the runs in the order of their submission."""
        return [Run(directory) for directory in self._runs.read()]
