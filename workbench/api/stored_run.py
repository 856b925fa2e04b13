"""A run in the store, as views, scripts and notebooks hold it: reading, waiting, cancelling, labelling, deleting."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import DamagedRunError
from workbench.launch import cancellation
from workbench.store import labels, listing
from workbench.store.directory import RunDirectory
from workbench.store.events import Event
from workbench.store.figures import Summary
from workbench.store.records import Labels, RunError, RunRecord, RunState

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from workbench.spec import RunSpec

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
    def state(self) -> RunState:
        """queued, starting, running, finished, failed, cancelled or lost."""
        return listing.state_of(self.directory)

    @property
    def record(self) -> RunRecord:
        """What was decided at its submission: mesh, device, baselines, expected communication and memory."""
        return self.directory.record()

    @property
    def summary(self) -> Summary | None:
        """The figures, once it has finished."""
        return self.directory.summary()

    @property
    def error(self) -> RunError | None:
        """Why it failed."""
        return self.directory.error()

    @property
    def message(self) -> str:
        """The last message of the supervisor: what the run waits for, or why it ended."""
        return listing.status_of(self.directory).message

    @property
    def labels(self) -> Labels:
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
        while not self.state.is_terminal:
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"run {self.id} is still {self.state} after {timeout_s} s")
            time.sleep(_POLL_S)
        return self

    def follow(self, with_silence: bool = False) -> Iterator[Event | None]:
        """Its events as they come, from all workers, until it has ended; each has ``time``, ``rank`` and ``event``. With
        silence: None each time that there was none to be had."""
        offsets = [0] * self.record.num_workers
        while True:
            ended = self.state.is_terminal
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
        from workbench.metrics.communication import communication_volume

        return communication_volume(self.directory)

    def _frame(self, name: str) -> pd.DataFrame:
        return self.table(name).to_pandas()
