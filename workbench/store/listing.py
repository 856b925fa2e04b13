"""Finds and lists runs, all or only those that have not ended. Reads plain JSON without DataFrames, so that thousands of runs are
listed quickly."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench.errors import DamagedRunError, UsageError
from workbench.store.columns import RUN_COLUMNS
from workbench.store.directory import RunDirectory
from workbench.store.index import Index
from workbench.store.run_status import RunState, RunStatus
from workbench.store.speedup import speedups
from workbench.store.trust import trust_of_times, trust_of_utilisation

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,199}")
"""A run's id, which is always the name of a directory and never a path."""
_SUPERVISOR_START_S = 60.0


def find(store: Path, text: str) -> RunDirectory:
    """Returns the run with this id, the only run whose id contains the text, or the ``latest`` run.

    Raises:
        UsageError: no run matches, or several do.
    """
    ids = sorted(run.id for run in all_runs(store))
    if text == "latest" and ids:
        return max(all_runs(store), key=_created_at)
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
    return [run for run in _directories(store) if not _is_deleted(run)]


def _directories(store: Path) -> list[RunDirectory]:
    directory = store / "runs"
    if not directory.is_dir():
        return []
    return [RunDirectory(path) for path in sorted(directory.iterdir()) if (path / "run.json").exists()]


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


def state_of(run: RunDirectory) -> RunState:
    """Returns the run's state. A run whose supervisor ended before the run is recorded as lost."""
    return status_of(run).state


def status_of(run: RunDirectory) -> RunStatus:
    """Returns the run's status, with the state as ``state_of`` returns it."""
    status = run.status()
    if not status.state.is_terminal and _supervisor_has_ended(run, status):
        status = run.status()  # it may have ended in the meantime
        if not status.state.is_terminal:
            message = "the supervisor process is gone" if status.supervisor else "the supervisor did not start"
            status = replace(status, state=RunState.LOST, message=message)
            try:
                run.write_status(status)
            except OSError as error:  # a full disk, which also ends supervisors, or a store that is only readable
                status = replace(status, message=f"{message}; the store cannot be written: {error.strerror}")
    return status


def _supervisor_has_ended(run: RunDirectory, status: RunStatus) -> bool:
    import time

    import psutil

    if status.supervisor is None:
        return time.time() - (run.path / "run.json").stat().st_mtime > _SUPERVISOR_START_S
    try:
        process = psutil.Process(status.supervisor.pid)
        # A killed supervisor stays a zombie while the front end that started it without the server runs.
        return bool(process.create_time() != status.supervisor.create_time or process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def row(run: RunDirectory) -> dict[str, Any]:
    """Returns the run's row of the table ``runs``; missing values are None."""
    record, summary, labels = run.record(), run.summary(), run.labels()
    row = {column: getattr(record if hasattr(record, column) else summary, column, None) for column in RUN_COLUMNS}
    row |= {"run_id": run.id, "state": state_of(run).value, "note": labels.note, "group": labels.group}
    if summary is not None:
        times = trust_of_times(record, summary)
        row |= {**speedups(run, record, summary), "trust": times, "utilisation_trust": trust_of_utilisation(times, summary)}
    row["tags"] = None if labels.tags is None else ", ".join(labels.tags)
    if labels.name is not None:
        row["name"] = labels.name
    return row


def rows(store: Path) -> list[dict[str, Any]]:
    """Returns the rows of ``runs``, oldest first; a run that cannot be read has only its id and the state ``damaged``."""
    return survey(store)[0]


def survey(store: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Returns the rows, and the ids of the deleted runs, which can be restored. Rows of ended runs come from the index if it has
    them."""
    index, remaining, deleted = Index(store), [], []
    for run_id, changed_ns in changes(store):
        if (entry := index.get(run_id, changed_ns)) is None:
            run = RunDirectory(store / "runs" / run_id)
            if not (run.path / "run.json").exists():
                continue
            entry = _row_or_damaged(run), _is_deleted(run)
            index.put(*entry, changed_ns)
        row, is_deleted = entry
        if is_deleted:
            deleted.append(run_id)
        else:
            remaining.append(row)
    index.write()
    return remaining, deleted


def changes(store: Path) -> list[tuple[str, int]]:
    """Returns the names of the run directories in order, each with the time in ns at which one of its files was last created or
    replaced."""
    try:
        directory = os.open(store / "runs", os.O_RDONLY)
    except FileNotFoundError:
        return []
    changes = []
    try:
        for entry in os.scandir(directory):  # from within the directory: a third faster than by whole paths
            with contextlib.suppress(FileNotFoundError):  # purged just now
                changes.append((entry.name, entry.stat().st_mtime_ns))
    finally:
        os.close(directory)
    return sorted(changes)


def _row_or_damaged(run: RunDirectory) -> dict[str, Any]:
    try:
        return row(run)
    except DamagedRunError:
        return {**dict.fromkeys(RUN_COLUMNS), "run_id": run.id, "state": "damaged"}


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
