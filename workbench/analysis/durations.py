"""How long runs took from the start of their workers to their end."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from workbench.store.directory import StoredRun


def typical_duration_s(runs: Iterable[StoredRun]) -> float | None:
    """Returns the median duration of ended runs; None if none has one."""
    durations = [duration for run in runs if (duration := _duration_s(run)) is not None]
    return median(durations) if durations else None


def _duration_s(run: StoredRun) -> float | None:
    events, _ = run.directory.events(0)
    ended = run.directory.status().heartbeat
    return ended - events[0].time if events and ended is not None else None


def duration_text(seconds: float) -> str:
    """Formats a rough duration: ``about 40 s``, ``about 3 min``."""
    return f"about {seconds:.0f} s" if seconds < 90 else f"about {seconds / 60:.0f} min"
