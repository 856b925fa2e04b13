"""Rows of the tables ``communication`` and ``timeline`` of one worker, from what its recorder has of the trace steps."""

from __future__ import annotations

from collections import Counter
from typing import Any

from workbench.plan.intervals import Interval, innermost
from workbench.runtime.tracing.recorder import Operation, Recorder
from workbench.runtime.tracing.step_breakdown import Activity, intervals


def communication_rows(recorder: Recorder, origin_s: float) -> list[dict[str, Any]]:
    """Returns the rows of ``communication``, one per operation, in order of issue, and with the ``group_size`` of each.

    On GPUs only the time of issue is known, because the host does not observe when an operation runs; other times are left out.

    Args:
        recorder: recorder of this worker, after ``attribute_waits``.
        origin_s: origin of the run's clock, in seconds of the machine's monotonic clock.
    """
    rows = []
    index: Counter[int] = Counter()
    for op in recorder.operations:
        row = {
            "step": op.step,
            "index": index[op.step],
            "operation": op.operation,
            "axis": recorder.axes.get(op.group),
            "group": op.group,
            "group_size": 1 if op.pair else op.group_size,
            "peer": op.peer,
            "phase": op.phase,
            "payload_bytes": op.payload_bytes,
            "ring_bytes": op.ring_bytes,
            "dtype": op.dtype,
            "start_s": op.entered - origin_s,
            "sequence": op.sequence,
        }
        if recorder.device == "cpu":
            row |= {
                "end_s": None if op.ended is None else op.ended - origin_s,
                "exposed_communication_s": op.exposed_s,
                "idle_s": op.idle_s,
                "blocked_s": op.exposed_s + op.idle_s,
                "late_rank": op.late_rank,
                "completed_s": None if op.completed is None else op.completed - origin_s,
            }
        rows.append(row)
        index[op.step] += 1
    return rows


def timeline_rows(recorder: Recorder, origin_s: float) -> list[dict[str, Any]]:
    """Returns the rows of ``timeline``, by step and start: passes, and the communication and waits inside and between them.

    Of the span of a schedule, only the time outside all other events has rows. On GPUs there are no rows.

    Args:
        recorder: recorder of this worker, after ``attribute_waits``.
        origin_s: origin of the run's clock, in seconds of the machine's monotonic clock.
    """
    if recorder.device != "cpu":
        return []
    rows = []
    for step in sorted({span.step for span in recorder.spans}):
        of_step = list(intervals(recorder, step))
        rows += [_row(interval, origin_s) for interval in of_step if interval.what.kind != "schedule"]
        rows += [_row(piece, origin_s) for piece in innermost(of_step) if piece.what.kind == "schedule"]
    return sorted(rows, key=lambda row: (row["step"], row["start_s"]))


def _row(interval: Interval[Activity], origin_s: float) -> dict[str, Any]:
    kind, cause = interval.what
    row = {"step": cause.step, "kind": kind, "start_s": interval.start - origin_s, "end_s": interval.end - origin_s}
    if isinstance(cause, Operation):
        return {**row, "name": cause.operation}
    return {**row, "stage": cause.stage, "microbatch": cause.microbatch, "name": cause.name}
