"""Finds the runs of a store."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from workbench.errors import DamagedRunError, UsageError
from workbench.store.directory import RunDirectory

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,199}")
"""A run's id, which is always the name of a directory and never a path."""


def find(store: Path, text: str) -> RunDirectory:
    """Returns the run with this id, the only run whose id contains the text, or the ``latest`` run.

    Raises:
        UsageError: no run matches, or several do.
    """
    runs = all_runs(store)
    if text == "latest" and runs:
        return max(runs, key=_created_at)
    ids = [run.id for run in runs]
    matches = [i for i in ids if i == text] or [i for i in ids if text and text in i]
    if len(matches) != 1:
        problem = f"matches {len(matches)} runs: {', '.join(matches[:5])}" if matches else "is not in the store"
        raise UsageError(f"run {text!r} {problem}; `workbench ls` lists all runs")
    return RunDirectory(store / "runs" / matches[0])


def exact(store: Path, run_id: str) -> RunDirectory:
    """Returns the run with exactly this id, deleted or not; an id cannot name a path outside the store.

    Raises:
        UsageError: there is no such run.
    """
    run = RunDirectory(store / "runs" / run_id) if RUN_ID.fullmatch(run_id) else None
    if run is None or not (run.path / "run.json").is_file():
        raise UsageError(f"run {run_id[:100]!r} is not in the store")
    return run


def all_runs(store: Path) -> list[RunDirectory]:
    """Returns all runs that are not deleted, oldest first."""
    return [*newest_first(store)][::-1]


def newest_first(store: Path) -> Iterator[RunDirectory]:
    """Yields all runs that are not deleted, and reads no more of them than are asked for."""
    directory = store / "runs"
    for path in sorted(directory.iterdir(), reverse=True) if directory.is_dir() else ():
        run = RunDirectory(path)
        if (path / "run.json").exists() and not _is_deleted(run):
            yield run


def _is_deleted(run: RunDirectory) -> bool:
    try:
        return run.labels().deleted_at is not None
    except DamagedRunError:
        return False


def _created_at(run: RunDirectory) -> float:
    try:
        return run.record().created_at
    except DamagedRunError:
        return 0.0
