"""The events of a worker: one JSON object per line, appended as they happen."""

from __future__ import annotations

import json
from pathlib import Path

from workbench.store.events import Event, event_to_json


class EventWriter:
    """Appends to the event file of a worker."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, event: Event) -> None:
        """Writes one event."""
        self._file.write(json.dumps(event_to_json(event)) + "\n")
