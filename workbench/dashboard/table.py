"""The table of the page Runs: filtered and sorted, in readable units."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.analysis.parity import CELLS
from workbench.api.store import RUN_COLUMNS, SETTLED_S, TERMINAL, Run, runs_beside, store_changes, survey

SHOWN = {
    "split": "split",
    "run_id": "run",
    "threads_per_worker": "threads",
    "name": "name",
    "state": "state",
    "model": "model",
    "step_time_ms": "step (ms)",
    "samples_per_s": "samples/s",
    "speedup": "speed-up",
    "trust": "trust",
    "peak_memory_mib": "peak (MiB)",
    "communication_mib": "communication (MiB)",
    "parity": "parity",
    "tags": "tags",
    "created": "created",
}
"""Column → its heading, in order."""
_NUMBERS = (
    "step_time_s", "peak_memory_bytes", "communication_bytes_per_step", "created_at", "speedup", "samples_per_s",
    "threads_per_worker",
)  # fmt: skip
SORTS = {
    "newest first": ("created_at", False),
    "oldest first": ("created_at", True),
    "shortest step": ("step_time_s", True),
    "highest speed-up": ("speedup", False),
    "least memory": ("peak_memory_bytes", True),
    "least communication": ("communication_bytes_per_step", True),
    "name": ("name", True),
}


@dataclass
class Overview:
    """All runs of a store, read again only if something has changed."""

    store: Path
    _changes: list[tuple[str, int]] | None = None
    _cached: tuple[pd.DataFrame, list[str]] | None = None

    @property
    def frame(self) -> pd.DataFrame:
        """Returns the runs with the columns of ``runs`` and those that the page shows."""
        return self.read()[0]

    def read(self) -> tuple[pd.DataFrame, list[str]]:
        """Returns the runs, and the ids of deleted runs that can be restored."""
        changes = store_changes(self.store)
        if self._cached and self._changes == changes:
            return self._cached
        rows, deleted = survey(self.store)
        frame = _frame(rows)
        newest = max((changed for _, changed in changes), default=0)
        # A run that has not ended may be found lost without a change of its directory.
        is_settled = frame["state"].isin((*TERMINAL, "damaged")).all() and time.time_ns() - newest > SETTLED_S * 1e9
        self._changes, self._cached = (changes, (frame, deleted)) if is_settled else (None, None)
        return frame, deleted


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=list(RUN_COLUMNS))
    for column in ("name", "model", "split", "mode", "tags", "note", "dataset", "group"):
        frame[column] = frame[column].fillna("").astype(str)
    number = {column: pd.to_numeric(frame[column], errors="coerce") for column in _NUMBERS}
    frame = frame.assign(
        **number,
        step_time_ms=number["step_time_s"] * 1e3,
        peak_memory_mib=number["peak_memory_bytes"] / 2**20,
        communication_mib=number["communication_bytes_per_step"] / 2**20,
        created=_local(number["created_at"]),
        searched=frame["run_id"]
        .str.cat(frame[["name", "split", "dataset", "tags", "note", "mode", "group"]], sep="\n")
        .str.lower(),
    )
    cells = {**CELLS, None: ""}
    frame["parity"] = [cells[value if isinstance(value, str) else None] for value in frame["parity_verdict"]]
    return frame


def _local(seconds: pd.Series) -> pd.Series:
    """Converts seconds since the epoch to the local time of this machine."""
    return pd.to_datetime(seconds.map(datetime.fromtimestamp, na_action="ignore"))


def tags_of(frame: pd.DataFrame) -> list[str]:
    """Returns all tags of the runs, sorted."""
    return sorted({tag for text in frame["tags"].unique().tolist() for tag in str(text).split(", ") if tag})


def filtered(
    frame: pd.DataFrame,
    text: str = "",
    states: Sequence[str] = (),
    models: Sequence[str] = (),
    tags: Sequence[str] = (),
    sort: str = "newest first",
) -> pd.DataFrame:
    """Returns the runs that have every word of ``text`` in their name, id, split, dataset, tags, note, mode or group, one of the
    states, one of the models and all of the tags. An empty argument is no condition."""
    keep = pd.Series(True, index=frame.index)
    for word in text.lower().split():
        keep &= frame["searched"].str.contains(word, regex=False)
    if states:
        keep &= frame["state"].isin(states)
    if models:
        keep &= frame["model"].isin(models)
    for tag in tags:
        keep &= (", " + frame["tags"] + ", ").str.contains(f", {tag}, ", regex=False)
    column, is_ascending = SORTS[sort]
    return frame[keep].sort_values(column, ascending=is_ascending, na_position="last", kind="stable")


def chosen(frame: pd.DataFrame, run_ids: Iterable[str]) -> list[str]:
    """Returns the ids of these that are in the table, in its order."""
    requested = set(run_ids)
    return [str(run_id) for run_id in frame["run_id"] if run_id in requested]


def alike(frame: pd.DataFrame, run: Run) -> list[Run]:
    """Returns the runs of the store with this run's split, model and dataset, itself included, so that few need to be opened."""
    record = run.record
    is_alike = (frame["split"] == record.split) & (frame["model"] == record.model) & (frame["dataset"] == record.dataset)
    frame = frame[is_alike]
    return runs_beside(run, map(str, frame["run_id"]))
