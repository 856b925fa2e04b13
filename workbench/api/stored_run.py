"""``Run``: a handle of a run in the store, to read it, wait for it, cancel, label or delete it."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.api.progress import shown
from workbench.errors import DamagedRunError
from workbench.launch import cancellation
from workbench.store import labels, runs_table
from workbench.store.directory import RunDirectory
from workbench.store.events import Event
from workbench.store.figures import Summary
from workbench.store.records import Labels, RunError, RunRecord
from workbench.store.run_status import RunState
from workbench.store.state import state_of, status_of

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from workbench.spec import RunSpec

_POLL_S = 0.05


class Run:
    """A run in the store, in any state."""

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory
        self.id = directory.id

        self.is_new = False
        """Whether the submission that returned this object started the run; False if the run was in the store before."""

    def __repr__(self) -> str:
        from workbench.analysis.markup import run_text

        return run_text(self.row())

    def _repr_html_(self) -> str:
        from workbench.analysis.markup import run_html

        return run_html(self.row(), self.message, self.error)

    @property
    def path(self) -> Path:
        """Directory of the run."""
        return self.directory.path

    @property
    def spec(self) -> RunSpec:
        """Spec of the run, with all defaults filled in."""
        return self.directory.spec()

    @property
    def spec_text(self) -> str:
        """Text of the spec's file, which is available even if a plugin that the spec names is not."""
        return self.directory.spec_path.read_text(encoding="utf-8", errors="replace")

    @property
    def state(self) -> RunState:
        """State of the run: queued, starting, running, finished, failed, cancelled or lost."""
        return state_of(self.directory)

    @property
    def record(self) -> RunRecord:
        """Record made at the submission: mesh, device, baselines, expected communication and memory."""
        return self.directory.record()

    @property
    def summary(self) -> Summary | None:
        """Figures of a finished run; None before."""
        return self.directory.summary()

    @property
    def error(self) -> RunError | None:
        """Cause of a failure; None if the run has not failed."""
        return self.directory.error()

    @property
    def message(self) -> str:
        """Last message of the supervisor: what the run waits for, or why it ended."""
        return status_of(self.directory).message

    @property
    def labels(self) -> Labels:
        """Name, tags, note and group, as users changed them."""
        return self.directory.labels()

    def row(self) -> dict[str, Any]:
        """Returns the run's row of the table ``runs``."""
        return runs_table.row(self.directory)

    def log(self, rank: int, most_bytes: int | None = None) -> str:
        """Returns the output of a worker, or the last bytes of it; empty if there is none."""
        try:
            with self.directory.log_path(rank).open("rb") as file:
                if most_bytes is not None:
                    file.seek(max(0, file.seek(0, os.SEEK_END) - most_bytes))
                return file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def wait(self, timeout_s: float | None = None) -> Run:
        """Waits until the run has ended, in any state, and returns it. A cell of a notebook shows the progress meanwhile.

        Raises:
            TimeoutError: the run has not ended within ``timeout_s`` seconds. It continues.
        """
        return self.wait_as("", timeout_s)

    def wait_as(self, position: str, timeout_s: float | None = None) -> Run:
        """Waits as ``wait``; ``position`` says which of several runs it is, such as ``2 of 3``."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with shown(self, position) as refresh:
            while not self.state.is_terminal:
                if deadline is not None and time.monotonic() > deadline:
                    raise TimeoutError(f"run {self.id} is still {self.state} after {timeout_s} s")
                refresh()
                time.sleep(_POLL_S)
        return self

    def follow(self, with_silence: bool = False) -> Iterator[Event | None]:
        """Yields the events of all workers as they are written, until the run has ended.

        Each event has ``time``, ``rank`` and ``event``. ``with_silence`` also yields None after each poll.
        """
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
        """Requests the end of this run and of the baselines that only it needs; returns these runs without waiting."""
        return [Run(directory) for directory in cancellation.cancel(self.directory)]

    def end(self) -> list[Run]:
        """Cancels the run, waits until no process of the cancelled runs is left, and returns these runs."""
        return [run.wait() for run in self.cancel()]

    def relabel(
        self, *, name: str | None = None, tags: Iterable[str] | None = None, note: str | None = None, group: str | None = None
    ) -> None:
        """Changes the name, tags, note or group, those that are given."""
        labels.relabel(self.directory, name=name, tags=tags, note=note, group=group)

    def add_tags(self, tags: Iterable[str]) -> None:
        """Adds tags to the run."""
        labels.add_tags(self.directory, tags)

    def remove_tags(self, tags: Iterable[str]) -> None:
        """Removes tags from the run; tags that it does not have are ignored."""
        labels.remove_tags(self.directory, tags)

    def delete(self) -> None:
        """Hides an ended run from lists. Its files are kept; ``restore`` undoes it."""
        labels.delete(self.directory)

    def restore(self) -> None:
        """Shows a deleted run in lists again."""
        labels.restore(self.directory)

    def purge(self) -> None:
        """Deletes an ended or damaged run and its files; this cannot be undone."""
        with contextlib.suppress(DamagedRunError, OSError):  # whether it has ended cannot be read; or the disk is full
            self.delete()
        shutil.rmtree(self.path)

    def steps(self) -> pd.DataFrame:
        """Returns one row per worker and step."""
        return self._frame("steps")

    def memory(self) -> pd.DataFrame:
        """Returns the allocated bytes by category at each event of the memory steps."""
        return self._frame("memory")

    def peak_tensors(self) -> pd.DataFrame:
        """Returns the largest tensors at the memory peak of each worker on the memory steps."""
        return self._frame("peak_tensors")

    def communication(self) -> pd.DataFrame:
        """Returns one row per operation and worker on the trace steps."""
        return self._frame("communication")

    def timeline(self) -> pd.DataFrame:
        """Returns what each worker did at which time on the trace steps."""
        return self._frame("timeline")

    def table(self, name: str, columns: Sequence[str] | None = None, step: int | None = None) -> pa.Table:
        """Returns a table of all workers, in order of rank; optionally only some columns, or the rows of one step."""
        return self.directory.table(name, columns, step)

    def communication_volume(self) -> list[dict[str, Any]]:
        """Returns the expected and measured bytes of a step, one row per operation, axis and phase."""
        from workbench.metrics.communication import communication_volume

        return communication_volume(self.directory)

    def _frame(self, name: str) -> pd.DataFrame:
        return self.table(name).to_pandas()
