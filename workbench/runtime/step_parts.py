"""Where the time of a worker's step goes, once the waits of all workers are divided into idle and communication."""

from __future__ import annotations

from collections import Counter
from statistics import mean
from typing import Any

from workbench.runtime.recorder import Operation, Recorder

COMPUTING = ("forward", "backward", "backward_input", "backward_weight")


def step_parts(recorder: Recorder, steps: list[dict[str, Any]]) -> dict[str, float | None]:
    """Means over the trace steps, in seconds; every part from its own events, ``other_s`` what none explains."""
    names = ("step_s", "compute_s", "exposed_communication_s", "idle_s", "optimizer_s", "other_s")
    parts = [_parts_of(recorder, row) for row in steps if row["kind"] == "trace"]
    return {name: mean(part[name] for part in parts) if parts else None for name in names}


def _parts_of(recorder: Recorder, row: dict[str, Any]) -> dict[str, float]:
    operations = [op for op in recorder.operations if op.step == row["step"]]
    spans = [span for span in recorder.spans if span.step == row["step"]]
    idle = sum(op.idle_s for op in operations)
    exposed = sum(op.blocked_s for op in operations) - idle
    seconds = Counter[str]()
    for span in spans:
        blocked = sum(_overlap(op, span.start, span.end) for op in operations)
        seconds[span.kind] += max(0.0, span.end - span.start - blocked)  # type: ignore[assignment]
    compute = sum(seconds[kind] for kind in COMPUTING)
    parts = {
        "step_s": row["duration_s"],
        "compute_s": compute,
        "exposed_communication_s": exposed,
        "idle_s": idle,
        "optimizer_s": seconds["optimizer"],
    }
    return {**parts, "other_s": 2 * row["duration_s"] - sum(parts.values())}


def _overlap(op: Operation, start: float, end: float) -> float:
    if op.wait_started is None or op.ended is None:
        return 0.0
    return max(0.0, min(op.ended, end) - max(op.wait_started, start))


def timeline_rows(recorder: Recorder) -> list[dict[str, Any]]:
    """Rows of ``timeline``: what was computed, and the waits divided into idle and communication."""
    rows = [
        {
            "step": s.step,
            "kind": s.kind,
            "stage": s.stage,
            "microbatch": s.microbatch,
            "name": s.name,
            "start_s": s.start,
            "end_s": s.end,
        }
        for s in recorder.spans
    ]
    for op in recorder.operations:
        if op.wait_started is None or op.ended is None:
            continue
        turn = op.wait_started + op.idle_s
        for kind, start, end in (("idle", op.wait_started, turn), ("communication", turn, op.ended)):
            if end > start:
                rows.append({"step": op.step, "kind": kind, "name": op.operation, "start_s": start, "end_s": end})
    return sorted(rows, key=lambda row: (row["step"], row["start_s"]))
