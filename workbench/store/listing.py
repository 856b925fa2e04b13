"""Finding and listing runs; plain JSON, no frames, so that thousands list in a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workbench.errors import DamagedRunError, UsageError
from workbench.store.run_directory import TERMINAL, RunDirectory
from workbench.store.tables import RUN_COLUMNS

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
        found = f"matches {len(matches)}: {', '.join(matches[:5])}" if matches else "is not in the store"
        raise UsageError(f"run {text!r} {found}; `workbench ls` lists all")
    return RunDirectory(store / "runs" / matches[0])


def all_runs(store: Path) -> list[RunDirectory]:
    """All runs that were not deleted, oldest first."""
    directory = store / "runs"
    if not directory.is_dir():
        return []
    runs = [RunDirectory(path) for path in sorted(directory.iterdir()) if (path / "run.json").exists()]
    return [run for run in runs if not _is_deleted(run)]


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
            status = {**status, "state": "lost", "message": "its owner process is gone"}
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
    return {column: values.get(column) for column in RUN_COLUMNS}


def rows(store: Path) -> list[dict[str, Any]]:
    """Rows of ``runs``, oldest first; of a run that cannot be read its id and the state ``damaged``."""
    return [_row_or_damaged(run) for run in all_runs(store)]


def _row_or_damaged(run: RunDirectory) -> dict[str, Any]:
    try:
        return row(run)
    except DamagedRunError:
        return {**dict.fromkeys(RUN_COLUMNS), "run_id": run.id, "state": "damaged"}
