"""Breakdown of the time of a worker's trace steps into compute, communication, idle time and the rest."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import mean
from typing import Any, NamedTuple

from workbench.plan.intervals import Interval, innermost
from workbench.runtime.tracing.recorder import Operation, Recorder, SpanRecord
from workbench.store.figures import AxisTimes, TraceStep

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


class Activity(NamedTuple):
    """What a worker did during an interval: a kind of ``timeline``, and the span or operation behind it."""

    kind: str
    cause: SpanRecord | Operation


def step_parts(recorder: Recorder, steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the parts of a trace step of this worker.

    On GPUs only the duration of a step is known, because the host does not observe when kernels run; all other values are None.

    Args:
        recorder: recorder of this worker, after ``attribute_waits``.
        steps: rows of ``steps``, with ``start_s`` in seconds of the machine's monotonic clock.

    Returns:
        Figures of ``WorkerFigures``, in seconds: mean over the trace steps ``step_s`` and its parts; ``trace_steps``, the same of
        each trace step; and ``axes``, exposed communication and idle time along each axis of the mesh.
    """
    if recorder.device == "cuda":
        durations = [row["duration_s"] for row in steps if row["kind"] == "trace"]
        unknown = dict.fromkeys((*PART_OF_KIND.values(), "other_s"))
        return {"step_s": mean(durations) if durations else None, **unknown, "trace_steps": (), "axes": {}}
    parts = [{"step": row["step"], **parts_of(recorder, row)} for row in steps if row["kind"] == "trace"]
    names = ("step_s", *dict.fromkeys(PART_OF_KIND.values()), "other_s")
    means = {name: mean(part[name] for part in parts) if parts else None for name in names}
    return {**means, "trace_steps": tuple(TraceStep(**part) for part in parts), "axes": _by_axis(recorder, len(parts))}


def _by_axis(recorder: Recorder, num_steps: int) -> dict[str, AxisTimes]:
    """Returns exposed communication and idle time of a trace step along each axis, in seconds."""
    axes: dict[str, dict[str, float]] = {}
    for op in recorder.operations:
        of_axis = axes.setdefault(recorder.axes.get(op.group, op.group), {"exposed_communication_s": 0.0, "idle_s": 0.0})
        of_axis["idle_s"] += op.idle_s / num_steps
        of_axis["exposed_communication_s"] += op.exposed_s / num_steps
    return {axis: AxisTimes(**times) for axis, times in axes.items()}


def parts_of(recorder: Recorder, row: dict[str, Any]) -> dict[str, float]:
    """Returns the parts of one step, in seconds. ``other_s`` is the time outside all events.

    Every moment counts once, for the innermost event: a wait inside a backward pass is not compute.
    """
    start, end = row["start_s"], row["start_s"] + row["duration_s"]
    parts = dict.fromkeys(PART_OF_KIND.values(), 0.0)
    for piece in innermost(intervals(recorder, row["step"])):
        parts[PART_OF_KIND[piece.what.kind]] += max(0.0, min(piece.end, end) - max(piece.start, start))
    return {"step_s": row["duration_s"], **parts, "other_s": row["duration_s"] - sum(parts.values())}


def intervals(recorder: Recorder, step: int) -> Iterator[Interval[Activity]]:
    """Yields the spans of a step and, of each of its operations, the issue, the idle time and the rest of the wait.

    Times are in seconds of the machine's monotonic clock. Intervals may lie inside others.
    """
    for span in recorder.spans:
        if span.step == step:
            yield Interval(span.start, span.end, Activity(span.kind, span))
    for op in recorder.operations:
        if op.step != step:
            continue
        if op.issued is not None:
            yield Interval(op.entered, op.issued, Activity("communication", op))
        if op.wait_started is not None and op.ended is not None:
            turn = op.wait_started + op.idle_s
            for kind, start, end in (("idle", op.wait_started, turn), ("communication", turn, op.ended)):
                if end > start:
                    yield Interval(start, end, Activity(kind, op))
