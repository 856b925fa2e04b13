"""Where the time of a worker's step goes, once the waits of all workers are divided into idle and communication."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import mean
from typing import Any, NamedTuple

from workbench.plan.intervals import Interval, innermost
from workbench.runtime.tracing.recorder import Operation, Recorder, SpanRecord

PART_OF_KIND = {
    "forward": "compute_s",
    "backward": "compute_s",
    "backward_input": "compute_s",
    "backward_weight": "compute_s",
    "optimizer": "optimizer_s",
    "communication": "exposed_communication_s",
    "idle": "idle_s",
    "schedule": "schedule_s",
}
"""Kind of ``timeline`` → the part of the step that its time belongs to."""


class Doing(NamedTuple):
    """What a worker did: of a kind of ``timeline``, because of a span or an operation."""

    kind: str
    cause: SpanRecord | Operation


def step_parts(recorder: Recorder, steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the trace steps, in seconds; under ``trace_steps`` each step's own, and under ``axes`` how the worker was
    blocked along each axis of the mesh. On GPU the host issues kernels and does not see when they run: of a step only its
    length is known."""
    if recorder.device == "cuda":
        durations = [row["duration_s"] for row in steps if row["kind"] == "trace"]
        unknown = dict.fromkeys((*PART_OF_KIND.values(), "other_s"))
        return {"step_s": mean(durations) if durations else None, **unknown, "trace_steps": [], "axes": {}}
    parts = [{"step": row["step"], **parts_of(recorder, row)} for row in steps if row["kind"] == "trace"]
    names = ("step_s", *dict.fromkeys(PART_OF_KIND.values()), "other_s")
    means = {name: mean(part[name] for part in parts) if parts else None for name in names}
    return {**means, "trace_steps": parts, "axes": _by_axis(recorder, len(parts))}


def _by_axis(recorder: Recorder, num_steps: int) -> dict[str, dict[str, float]]:
    """Exposed communication and idle time of a trace step, in seconds, along each axis."""
    axes: dict[str, dict[str, float]] = {}
    for op in recorder.operations:
        of_axis = axes.setdefault(recorder.axes.get(op.group, op.group), {"exposed_communication_s": 0.0, "idle_s": 0.0})
        of_axis["idle_s"] += op.idle_s / num_steps
        of_axis["exposed_communication_s"] += op.exposed_s / num_steps
    return axes


def parts_of(recorder: Recorder, row: dict[str, Any]) -> dict[str, float]:
    """Of one step: every part from its own events, ``other_s`` the time that lies in none. A moment counts once, for what
    the worker did innermost: a wait inside a backward pass is no computing."""
    start, end = row["start_s"], row["start_s"] + row["duration_s"]
    parts = dict.fromkeys(PART_OF_KIND.values(), 0.0)
    for piece in innermost(_intervals(recorder, row["step"])):
        parts[PART_OF_KIND[piece.what.kind]] += max(0.0, min(piece.end, end) - max(piece.start, start))
    return {"step_s": row["duration_s"], **parts, "other_s": row["duration_s"] - sum(parts.values())}


def timeline_rows(recorder: Recorder) -> list[dict[str, Any]]:
    """Rows of ``timeline``: what was computed, and inside it or between what the worker issued and waited for; of the
    schedule only what it did between them."""
    rows = []
    for step in sorted({span.step for span in recorder.spans}):
        intervals = list(_intervals(recorder, step))
        rows += [_row(i) for i in intervals if i.what.kind != "schedule"]
        rows += [_row(piece) for piece in innermost(intervals) if piece.what.kind == "schedule"]
    return sorted(rows, key=lambda row: (row["step"], row["start_s"]))


def _intervals(recorder: Recorder, step: int) -> Iterator[Interval[Doing]]:
    for span in recorder.spans:
        if span.step == step:
            yield Interval(span.start, span.end, Doing(span.kind, span))
    for op in recorder.operations:
        if op.step != step:
            continue
        if op.issued is not None:
            yield Interval(op.entered, op.issued, Doing("communication", op))
        if op.wait_started is not None and op.ended is not None:
            turn = op.wait_started + op.idle_s
            for kind, start, end in (("idle", op.wait_started, turn), ("communication", turn, op.ended)):
                if end > start:
                    yield Interval(start, end, Doing(kind, op))


def _row(interval: Interval[Doing]) -> dict[str, Any]:
    kind, cause = interval.what
    row = {"step": cause.step, "kind": kind, "start_s": interval.start, "end_s": interval.end}
    if isinstance(cause, Operation):
        return {**row, "name": cause.operation}
    return {**row, "stage": cause.stage, "microbatch": cause.microbatch, "name": cause.name}
