"""The events of a worker: one JSON object per line, appended as they happen."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any


class EventWriter:
    """Appends to the event file of a worker."""

    def __init__(self, path: Path, rank: int) -> None:
        self.rank = rank
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, event: str, **values: Any) -> None:
        """Writes one event with the current time."""
        line = {"time": time.time(), "rank": self.rank, "event": event, **values}
        self._file.write(json.dumps(line) + "\n")
