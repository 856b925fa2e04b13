"""Where the time of a worker's step goes, once the waits of all workers are divided into idle and communication."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from statistics import mean
from typing import Any, NamedTuple

from workbench.runtime.recorder import Operation, Recorder, SpanRecord

PART_OF_KIND = {
    "forward": "compute_s",
    "backward": "compute_s",
    "backward_input": "compute_s",
    "backward_weight": "compute_s",
    "optimizer": "optimizer_s",
    "schedule": "schedule_s",
    "communication": "exposed_communication_s",
    "idle": "idle_s",
}
"""Kind of ``timeline`` → the part of the step that its time belongs to."""


class Interval(NamedTuple):
    """From ``start`` to ``end`` the worker did one kind of thing; what begins later lies inside and has the time."""

    start: float
    end: float
    kind: str
    cause: SpanRecord | Operation


def step_parts(recorder: Recorder, steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the trace steps, in seconds, and under ``trace_steps`` each step's own."""
    parts = [{"step": row["step"], **parts_of(recorder, row)} for row in steps if row["kind"] == "trace"]
    names = ("step_s", *dict.fromkeys(PART_OF_KIND.values()), "other_s")
    return {**{name: mean(part[name] for part in parts) if parts else None for name in names}, "trace_steps": parts}


def parts_of(recorder: Recorder, row: dict[str, Any]) -> dict[str, float]:
    """Of one step: every part from its own events, ``other_s`` the time that lies in none. A moment counts once, for what
    the worker did innermost: a wait inside a backward pass is no computing."""
    start, end = row["start_s"], row["start_s"] + row["duration_s"]
    seconds = Counter[str]()
    for kind, moment, until in _innermost(_intervals(recorder, row["step"])):
        seconds[PART_OF_KIND[kind]] += max(0.0, min(until, end) - max(moment, start))  # type: ignore[assignment]
    parts = {part: float(seconds[part]) for part in PART_OF_KIND.values()}
    return {"step_s": row["duration_s"], **parts, "other_s": row["duration_s"] - sum(parts.values())}


def timeline_rows(recorder: Recorder) -> list[dict[str, Any]]:
    """Rows of ``timeline``: what was computed, and inside it or between what the worker issued and waited for; of the
    schedule what it did between them."""
    rows = []
    for step in sorted({span.step for span in recorder.spans}):
        intervals = list(_intervals(recorder, step))
        rows += [_row(i) for i in intervals if i.kind != "schedule"]
        between = (part for part in _innermost(intervals) if part[0] == "schedule")
        rows += [{"step": step, "kind": kind, "start_s": start, "end_s": end} for kind, start, end in between]
    return sorted(rows, key=lambda row: (row["step"], row["start_s"]))


def _intervals(recorder: Recorder, step: int) -> Iterator[Interval]:
    for span in recorder.spans:
        if span.step == step:
            yield Interval(span.start, span.end, span.kind, span)
    for op in recorder.operations:
        if op.step != step:
            continue
        if op.issued is not None:
            yield Interval(op.entered, op.issued, "communication", op)
        if op.waited_s and op.wait_started is not None and op.ended is not None:
            turn = op.wait_started + op.idle_s
            for kind, start, end in (("idle", op.wait_started, turn), ("communication", turn, op.ended)):
                if end > start:
                    yield Interval(start, end, kind, op)


def _innermost(intervals: Iterable[Interval]) -> Iterator[tuple[str, float, float]]:
    """(kind, from, until) of one thing after the other; intervals lie inside one another or apart."""
    open_: list[Interval] = []
    now = float("-inf")
    for interval in sorted(intervals, key=lambda i: (i.start, -i.end)):
        while open_ and open_[-1].end <= interval.start:
            last = open_.pop()
            if last.end > now:
                yield last.kind, now, last.end
                now = last.end
        if open_ and interval.start > now:
            yield open_[-1].kind, now, interval.start
        now = max(now, interval.start)
        open_.append(interval)
    while open_:
        last = open_.pop()
        if last.end > now:
            yield last.kind, now, last.end
            now = last.end


def _row(interval: Interval) -> dict[str, Any]:
    cause = interval.cause
    of_span = {"stage": cause.stage, "microbatch": cause.microbatch, "name": cause.name} if isinstance(cause, SpanRecord) else {}
    name = {} if isinstance(cause, SpanRecord) else {"name": cause.operation}
    step = {"step": cause.step, "kind": interval.kind, "start_s": interval.start, "end_s": interval.end}
    return {**step, **of_span, **name}
