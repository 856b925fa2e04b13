"""A cache of the rows of ended runs, ``index.json`` beside the run directories, that can be deleted at any time.

Every change in a run's directory replaces a file, which changes the modification time of the directory: a row of the index is
valid while that time is unchanged.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

from workbench.store.columns import RUN_COLUMNS
from workbench.store.run_status import TERMINAL

NAME = "index.json"
VERSION = 2
"""Increases whenever a column has another meaning, which its name does not show: an index of another version is not used."""
_MIN_NEW = 100
"""Number of new rows from which the index is written."""
SETTLED_S = 2.0
"""A directory that changed more recently may change again within one tick of the file system's clock."""


class Index:
    """Rows by run id. A read-only store has no index, and listing is slower."""

    def __init__(self, store: Path) -> None:
        self._path = store / NAME
        self._rows: dict[str, list[Any]] = {}
        self._new_rows: dict[str, list[Any]] = {}
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads(self._path.read_bytes())
            if content["version"] == VERSION and content["columns"] == list(RUN_COLUMNS):
                self._rows = dict(content["rows"])

    def get(self, run_id: str, changed_ns: int) -> tuple[dict[str, Any], bool] | None:
        """Returns the row of a run and whether it is deleted; None unless the index has the run with this modification time."""
        entry = self._rows.get(run_id)
        if not entry or entry[0] != changed_ns:
            return None
        return dict(zip(RUN_COLUMNS, entry[1], strict=True)), entry[2]

    def put(self, row: dict[str, Any], is_deleted: bool, changed_ns: int) -> None:
        """Adds the row of an ended run."""
        if row["state"] in TERMINAL and time.time_ns() - changed_ns > SETTLED_S * 1e9:
            self._new_rows[row["run_id"]] = [changed_ns, [row[column] for column in RUN_COLUMNS], is_deleted]

    def write(self) -> None:
        """Writes the index if there are enough new rows. Atomic: a reader sees the old or the new file."""
        if len(self._new_rows) < _MIN_NEW:
            return
        draft = self._path.with_name(f".{NAME}.{os.getpid()}")
        with contextlib.suppress(OSError):
            content = {"version": VERSION, "columns": RUN_COLUMNS, "rows": {**self._rows, **self._new_rows}}
            draft.write_text(json.dumps(content), encoding="utf-8")
            draft.replace(self._path)
