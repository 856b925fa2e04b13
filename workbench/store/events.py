"""Typed records of the events of a worker: the lines of ``events/rank-N.jsonl``, appended as they happen."""

from __future__ import annotations

import json
import time as clock
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from workbench.plan.parity import Verdict, verdict_of_event
from workbench.store.figures import WorkerFigures
from workbench.store.json_record import Record, from_json, plain
from workbench.store.records import ExceededBudget


@dataclass(frozen=True, kw_only=True)
class Event(Record):
    """What a worker reports."""

    event: ClassVar[str]
    """Kind of the event."""
    rank: int
    time: float = field(default_factory=clock.time)
    """Seconds since 1970."""


@dataclass(frozen=True, kw_only=True)
class ReadyEvent(Event):
    """The worker has joined its process group."""

    event: ClassVar[str] = "ready"


@dataclass(frozen=True, kw_only=True)
class ParityEvent(Event):
    """The result of the parity check, from rank 0; ``docs/parity.md`` and ``ParityReport`` describe its fields."""

    event: ClassVar[str] = "parity"
    ok: bool | None
    max_error: float | None
    """None if it is infinite."""
    tensor: str | None = None
    num_steps: int | None = None
    precision: str | None = None
    allowed: float | None = None
    on_purpose: str | None = None
    verdict: Verdict | None
    whole_batch_error: float | None = None
    whole_batch_tensor: str | None = None
    cause: str | None = None
    remedy: str | None = None
    is_without_dropout: bool | None = None

    @classmethod
    def upgraded(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Before the whole batch was compared, the verdict followed from ``ok``."""
        return values if "verdict" in values else {**values, "verdict": verdict_of_event(values)}


@dataclass(frozen=True, kw_only=True)
class StepEvent(Event):
    """The worker has completed a step."""

    event: ClassVar[str] = "step"
    kind: str
    step: int
    num_steps: int
    """Steps of all kinds of the run."""
    loss: float | None
    duration_s: float


@dataclass(frozen=True, kw_only=True)
class FinishedEvent(Event):
    """The worker has completed all steps and written its tables."""

    event: ClassVar[str] = "finished"
    figures: WorkerFigures


@dataclass(frozen=True, kw_only=True)
class ErrorEvent(Event):
    """The worker has failed."""

    event: ClassVar[str] = "error"
    step: int | None
    exception: str
    traceback: str
    is_communication: bool
    """Whether the error may be that of another worker, which closed its connections."""
    operations: tuple[str, ...]
    """The last communication operations."""
    advice: str | None = None
    memory: ExceededBudget | None = None


@dataclass(frozen=True, kw_only=True)
class MeasuredEvent(Event):
    """A worker of a calibration has measured a row of a table."""

    event: ClassVar[str] = "measured"
    table: str
    row: dict[str, Any]


KINDS: dict[str, type[Event]] = {
    kind.event: kind for kind in (ReadyEvent, ParityEvent, StepEvent, FinishedEvent, ErrorEvent, MeasuredEvent)
}


def event_from_json(values: dict[str, Any]) -> Event | None:
    """Returns the event of a line; None for a kind that this version does not know."""
    kind = KINDS.get(values["event"])
    return None if kind is None else from_json(kind, values)


class EventWriter:
    """Appends to the event file of a worker."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, event: Event) -> None:
        """Writes one event."""
        self._file.write(json.dumps({"event": event.event, **plain(event)}) + "\n")
