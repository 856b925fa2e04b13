"""The store: opens, lists and imports runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from workbench.api.stored_run import Run
from workbench.errors import UsageError
from workbench.messages import listed
from workbench.plan.parity import VERDICTS
from workbench.store import archive, listing, runs_table
from workbench.store.columns import RUN_COLUMNS, RUN_FIGURES
from workbench.store.directory import RunDirectory, home
from workbench.store.events import ParityEvent, StepEvent
from workbench.store.figures import Summary, WorkerFigures
from workbench.store.index import SETTLED_S
from workbench.store.labels import MAX_NAME, MAX_NOTE
from workbench.store.listing import RUN_ID
from workbench.store.records import RunError, RunRecord
from workbench.store.run_status import TERMINAL
from workbench.store.runs_table import changes as store_changes
from workbench.store.runs_table import survey

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
    "Run",
    "RunError",
    "RunRecord",
    "StepEvent",
    "Summary",
    "WorkerFigures",
    "all_runs",
    "home",
    "import_runs",
    "left_out",
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
    """Returns one row per run in the store, oldest first."""
    import pandas as pd

    return pd.DataFrame(run_rows(), columns=list(RUN_COLUMNS))


def run_rows() -> list[dict[str, Any]]:
    """Returns the rows of ``runs`` as dicts, without importing pandas."""
    return runs_table.rows(home())


def all_runs() -> list[Run]:
    """Returns all runs that are not deleted, oldest first."""
    return [Run(directory) for directory in listing.all_runs(home())]


def newest_first() -> Iterator[Run]:
    """Yields all runs that are not deleted, and reads no more of them than are asked for."""
    return map(Run, listing.newest_first(home()))


def open_run(run: Run | str) -> Run:
    """Opens a run by its id, a unique part of its id, or ``latest``; a ``Run`` is returned as it is.

    Raises:
        UsageError: no run matches, several do, or the argument is neither a run nor a text.
    """
    if isinstance(run, Run):
        return run
    if not isinstance(run, str):
        raise UsageError(f"requires a run or a run id, but got {run!r}")
    return Run(listing.find(home(), run))


def open_exact(run_id: str) -> Run:
    """Opens the run with exactly this id, deleted or not; an id cannot name a path outside the store.

    Raises:
        UsageError: there is no such run.
    """
    return Run(listing.exact(home(), run_id))


def runs_beside(run: Run, run_ids: Iterable[str]) -> list[Run]:
    """Returns runs of the same store by their ids, without checking that they exist."""
    return [Run(RunDirectory(run.path.parent / run_id)) for run_id in run_ids]


def pack_runs(runs: Iterable[Run]) -> bytes:
    """Packs the runs' directories into a zip file, which ``import_runs`` reads; without what ``left_out`` says."""
    return archive.pack(run.directory for run in runs)


def left_out(runs: Iterable[Run]) -> str:
    """Returns a sentence on what an archive of these runs leaves out; empty if it is complete. Code crosses from nobody to
    anybody: who imports the runs reads their figures, and cannot repeat them."""
    sources = dict.fromkeys(code.source for run in runs for code in run.directory.codes().values())
    return f"Left out: the code of {listed(list(sources))}, so that only this store can repeat its runs." if sources else ""


def import_runs(source: Path | IO[bytes]) -> tuple[list[Run], list[str]]:
    """Copies ended runs from a zip file, a store or a directory of run directories into the store, without executing anything.
    If one run is damaged, no run is copied.

    Returns:
        the new runs, and the ids of the runs that were in the store before, which stay unchanged.

    Raises:
        UsageError: the source is none of these, or has no run, a damaged run or a run that has not ended.
    """
    new, present = archive.import_runs(home(), source)
    return [Run(directory) for directory in new], present
