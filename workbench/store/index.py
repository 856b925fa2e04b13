"""A cache of ended runs' rows, ``index.json`` beside the run directories, that can be deleted at any time.

Whatever changes in a run's directory is a file replaced whole, which changes the directory's own time of change: a row is
taken from the index while that is what it was.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

from workbench.store.directory import TERMINAL
from workbench.store.tables import RUN_COLUMNS

NAME = "index.json"
_MIN_NEW = 100
"""So many rows more than the index has make it worth writing."""
SETTLED_S = 2.0
"""A directory that changed more recently may change again within one tick of the file system's clock."""


class Index:
    """Rows by run id. A store that cannot be written has none, and all works the same, slower."""

    def __init__(self, store: Path) -> None:
        self._path = store / NAME
        self._known: dict[str, list[Any]] = {}
        self._new: dict[str, list[Any]] = {}
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads(self._path.read_bytes())
            if content["columns"] == list(RUN_COLUMNS):
                self._known = dict(content["rows"])

    def get(self, run_id: str, changed_ns: int) -> tuple[dict[str, Any], bool] | None:
        """The row of a run whose directory last changed then, and whether the run was deleted; None: not known."""
        entry = self._known.get(run_id)
        if not entry or entry[0] != changed_ns:
            return None
        return dict(zip(RUN_COLUMNS, entry[1], strict=True)), entry[2]

    def put(self, row: dict[str, Any], is_deleted: bool, changed_ns: int) -> None:
        """Keeps the row of an ended run."""
        if row["state"] in TERMINAL and time.time_ns() - changed_ns > SETTLED_S * 1e9:
            self._new[row["run_id"]] = [changed_ns, [row[column] for column in RUN_COLUMNS], is_deleted]

    def write(self) -> None:
        """Writes what is new, where it is worth it; a reader sees the old or the new file."""
        if len(self._new) < _MIN_NEW:
            return
        draft = self._path.with_name(f".{NAME}.{os.getpid()}")
        with contextlib.suppress(OSError):
            draft.write_text(json.dumps({"columns": RUN_COLUMNS, "rows": {**self._known, **self._new}}), encoding="utf-8")
            draft.replace(self._path)
