"""Finding and listing runs; plain JSON, no frames, so that thousands list in a moment."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Any

from workbench.errors import DamagedRunError, UsageError
from workbench.plan.parity import verdict
from workbench.store.directory import TERMINAL, RunDirectory
from workbench.store.index import Index
from workbench.store.tables import RUN_COLUMNS

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,199}")
"""What a run's id looks like: a name of a directory and of nothing else."""
_OWNER_MAY_TAKE_S = 60.0


def find(store: Path, text: str) -> RunDirectory:
    """The run with this id, the only one whose id contains the text, or the ``latest``.

    Raises:
        UsageError: none or several.
    """
    ids = sorted(run.id for run in all_runs(store))
    if text == "latest" and ids:
        return max(all_runs(store), key=_created_at)
    matches = [i for i in ids if i == text] or [i for i in ids if text and text in i]
    if len(matches) != 1:
        found = f"matches {len(matches)} runs: {', '.join(matches[:5])}" if matches else "is not in the store"
        raise UsageError(f"run {text!r} {found}; `workbench ls` lists all runs")
    return RunDirectory(store / "runs" / matches[0])


def exact(store: Path, run_id: str) -> RunDirectory:
    """The run with exactly this id, deleted or not; nothing outside the store can be named.

    Raises:
        UsageError: there is none.
    """
    run = RunDirectory(store / "runs" / run_id) if RUN_ID.fullmatch(run_id) else None
    if run is None or not (run.path / "run.json").is_file():
        raise UsageError(f"run {run_id[:100]!r} is not in the store")
    return run


def all_runs(store: Path) -> list[RunDirectory]:
    """All runs that were not deleted, oldest first."""
    return [run for run in _directories(store) if not _is_deleted(run)]


def _directories(store: Path) -> list[RunDirectory]:
    directory = store / "runs"
    if not directory.is_dir():
        return []
    return [RunDirectory(path) for path in sorted(directory.iterdir()) if (path / "run.json").exists()]


def _is_deleted(run: RunDirectory) -> bool:
    try:
        return bool(run.labels().get("deleted_at"))
    except DamagedRunError:
        return False


def _created_at(run: RunDirectory) -> float:
    try:
        return float(run.record().get("created_at", 0.0))
    except DamagedRunError:
        return 0.0


def state_of(run: RunDirectory) -> str:
    """The run's state. One whose owner is gone before its end is recorded as lost."""
    status = run.status()
    if status["state"] not in TERMINAL and _owner_is_gone(run, status):
        status = run.status()  # it may have ended just now
        if status["state"] not in TERMINAL:
            status = {**status, "state": "lost", "message": "the supervisor process is gone"}
            run.write_status(status)
    return str(status["state"])


def _owner_is_gone(run: RunDirectory, status: dict[str, Any]) -> bool:
    import time

    import psutil

    owner = status.get("owner")
    if owner is None:
        return time.time() - (run.path / "run.json").stat().st_mtime > _OWNER_MAY_TAKE_S
    try:
        process = psutil.Process(owner["pid"])
        # A killed owner stays a zombie while the front end that started it without the server lives.
        return bool(process.create_time() != owner["create_time"] or process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def row(run: RunDirectory) -> dict[str, Any]:
    """The run's row of ``runs``; what is not known is None."""
    values = {
        **run.record(),
        **(run.summary() or {}),
        **run.labels(),
        "run_id": run.id,
        "state": state_of(run),
    }
    values["parity_verdict"] = verdict(values)
    return {column: values.get(column) for column in RUN_COLUMNS}


def rows(store: Path) -> list[dict[str, Any]]:
    """Rows of ``runs``, oldest first; of a run that cannot be read its id and the state ``damaged``."""
    return survey(store)[0]


def survey(store: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows, and the ids of the runs that were deleted and can be restored. Of ended runs from the index, where that knows
    them."""
    index, found, deleted = Index(store), [], []
    for run_id, changed_ns in changes(store):
        if (known := index.get(run_id, changed_ns)) is None:
            run = RunDirectory(store / "runs" / run_id)
            if not (run.path / "run.json").exists():
                continue
            known = _row_or_damaged(run), _is_deleted(run)
            index.put(*known, changed_ns)
        row, is_deleted = known
        if is_deleted:
            deleted.append(run_id)
        else:
            found.append(row)
    index.write()
    return found, deleted


def changes(store: Path) -> list[tuple[str, int]]:
    """Names of the run directories in order, and when, in nanoseconds, a file of each was last made or replaced."""
    try:
        directory = os.open(store / "runs", os.O_RDONLY)
    except FileNotFoundError:
        return []
    found = []
    try:
        for entry in os.scandir(directory):  # from within the directory: a third faster than by whole paths
            with contextlib.suppress(FileNotFoundError):  # purged just now
                found.append((entry.name, entry.stat().st_mtime_ns))
    finally:
        os.close(directory)
    return sorted(found)


def _row_or_damaged(run: RunDirectory) -> dict[str, Any]:
    try:
        return row(run)
    except DamagedRunError:
        return {**dict.fromkeys(RUN_COLUMNS), "run_id": run.id, "state": "damaged"}
