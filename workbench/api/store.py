"""Runs in the store: opening, listing, reading, labelling, cancelling, deleting, importing."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from workbench.errors import DamagedRunError, UsageError
from workbench.plan.parity import VERDICTS
from workbench.store import archive, cancellation, labels, listing
from workbench.store.directory import TERMINAL, RunDirectory, home
from workbench.store.index import SETTLED_S
from workbench.store.labels import MAX_NAME, MAX_NOTE
from workbench.store.listing import RUN_ID, survey
from workbench.store.listing import changes as store_changes
from workbench.store.tables import RUN_COLUMNS, RUN_FIGURES

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    import pyarrow as pa

    from workbench.spec import RunSpec

__all__ = [
    "MAX_NAME",
    "MAX_NOTE",
    "RUN_COLUMNS",
    "RUN_FIGURES",
    "RUN_ID",
    "SETTLED_S",
    "TERMINAL",
    "VERDICTS",
    "Queue",
    "Run",
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

_POLL_S = 0.05


class Run:
    """A run in the store, whatever its state."""

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory
        self.id = directory.id

        self.is_new = False
        """Whether this object's submission started it; else it was there already."""

    def __repr__(self) -> str:
        from workbench.analysis.markup import run_text

        return run_text(self.row())

    def _repr_html_(self) -> str:
        from workbench.analysis.markup import run_html

        return run_html(self.row(), self.message, self.error)

    @property
    def path(self) -> Path:
        """The run's directory."""
        return self.directory.path

    @property
    def spec(self) -> RunSpec:
        """What was asked, with all defaults filled in."""
        return self.directory.spec()

    @property
    def spec_text(self) -> str:
        """The spec's file as it is, which can be read where a plugin that it names cannot be found."""
        return self.directory.spec_path.read_text(encoding="utf-8", errors="replace")

    @property
    def state(self) -> str:
        """queued, starting, running, finished, failed, cancelled or lost."""
        return listing.state_of(self.directory)

    @property
    def record(self) -> dict[str, Any]:
        """What was decided at its submission: mesh, device, baselines, expected communication and memory."""
        return self.directory.record()

    @property
    def summary(self) -> dict[str, Any] | None:
        """The figures, once it has finished."""
        return self.directory.summary()

    @property
    def error(self) -> dict[str, Any] | None:
        """Why it failed."""
        return self.directory.error()

    @property
    def message(self) -> str:
        """What its owner last said: what it waits for, or why it ended."""
        return str(self.directory.status().get("message") or "")

    @property
    def labels(self) -> dict[str, Any]:
        """What people changed: name, tags and note."""
        return self.directory.labels()

    def row(self) -> dict[str, Any]:
        """Its row of the table ``runs``."""
        return listing.row(self.directory)

    def log(self, rank: int) -> str:
        """The output of a worker; empty where there is none."""
        path = self.directory.log_path(rank)
        return path.read_text(errors="replace") if path.exists() else ""

    def wait(self, timeout_s: float | None = None) -> Run:
        """Waits for the end of the run, whatever it is.

        Raises:
            TimeoutError: it has not ended within ``timeout_s`` seconds; it goes on.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while self.state not in TERMINAL:
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"run {self.id} is still {self.state} after {timeout_s} s")
            time.sleep(_POLL_S)
        return self

    def follow(self, with_silence: bool = False) -> Iterator[Any]:
        """Its events as they come, from all workers, until it has ended; each has ``time``, ``rank`` and ``event``. With
        silence: None each time that there was none to be had."""
        offsets = [0] * self.record["num_workers"]
        while True:
            ended = self.state in TERMINAL
            for rank in range(len(offsets)):
                events, offsets[rank] = self.directory.events(rank, offsets[rank])
                yield from events
            if ended:
                return
            if with_silence:
                yield None
            time.sleep(_POLL_S)

    def cancel(self) -> list[Run]:
        """Requests the end of this run and of the baselines that only it needs; returns these runs at once, without waiting for
        their end."""
        return [Run(directory) for directory in cancellation.cancel(self.directory)]

    def end(self) -> list[Run]:
        """Cancels the run; returns the runs that were asked to end when no process of them is left."""
        return [run.wait() for run in self.cancel()]

    def relabel(self, *, name: str | None = None, tags: Iterable[str] | None = None, note: str | None = None) -> None:
        """Changes its name, tags and note, those that are given."""
        labels.relabel(self.directory, name=name, tags=tags, note=note)

    def add_tags(self, tags: Iterable[str]) -> None:
        """Adds tags to those that it has."""
        labels.add_tags(self.directory, tags)

    def remove_tags(self, tags: Iterable[str]) -> None:
        """Removes these tags where it has them."""
        labels.remove_tags(self.directory, tags)

    def delete(self) -> None:
        """Hides an ended run from the lists; its files are kept, and ``restore`` brings it back."""
        labels.delete(self.directory)

    def restore(self) -> None:
        """Brings a deleted run back into the lists."""
        labels.restore(self.directory)

    def purge(self) -> None:
        """Deletes an ended or damaged run and its files; this cannot be undone."""
        with contextlib.suppress(DamagedRunError):  # whether it has ended cannot be read
            self.delete()
        shutil.rmtree(self.path)

    def steps(self) -> pd.DataFrame:
        """One row a worker and step."""
        return self._frame("steps")

    def memory(self) -> pd.DataFrame:
        """Bytes alive by category at each event of the memory steps."""
        return self._frame("memory")

    def peak_tensors(self) -> pd.DataFrame:
        """The largest tensors alive at each worker's peak of the memory steps."""
        return self._frame("peak_tensors")

    def communication(self) -> pd.DataFrame:
        """One row an operation and worker, of the trace steps."""
        return self._frame("communication")

    def timeline(self) -> pd.DataFrame:
        """What each worker did when, on the trace steps."""
        return self._frame("timeline")

    def table(self, name: str, columns: Sequence[str] | None = None, step: int | None = None) -> pa.Table:
        """A table of all workers for Arrow, in order of rank: all of it, some columns, or the rows of one step."""
        return self.directory.table(name, columns, step)

    def communication_volume(self) -> list[dict[str, Any]]:
        """Expected and measured bytes of a step: a row an operation, axis and phase."""
        from workbench.metrics.communication import transfers

        return transfers(self.directory)

    def _frame(self, name: str) -> pd.DataFrame:
        return self.table(name).to_pandas()


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


@dataclass
class Queue:
    """The runs of a store that are queued or running. Ended runs are read only once, so that a view can poll every second."""

    store: Path
    _queue: cancellation.Queue = field(init=False)

    def __post_init__(self) -> None:
        self._queue = cancellation.Queue(self.store)

    def active(self) -> list[Run]:
        """Returns the runs in the order of their submission."""
        return [Run(directory) for directory in self._queue.active()]

    def cancel(self, run: Run) -> list[str]:
        """Cancels a run as ``Run.cancel`` does; returns the ids of the cancelled runs."""
        return self._queue.cancel(run.directory)
