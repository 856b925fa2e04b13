"""From a worker's records to its table rows and its step's parts, once all workers' entries are known."""

from __future__ import annotations

import os
from collections import Counter
from statistics import mean
from typing import Any

import torch.distributed as dist

from workbench.runtime.recorder import Operation, Recorder

COMPUTING = ("forward", "backward", "backward_input", "backward_weight")


def attribute_idle(recorder: Recorder, control: Any, num_workers: int) -> None:
    """Divides each wait: *idle* until the last participant (of a recv: the sender) had entered, then *exposed*."""
    mine = {op.key: op.entered for op in recorder.operations if op.operation != "recv"}
    everyone: list[dict[tuple[Any, ...], float]] = [mine]
    if num_workers > 1:
        everyone = [{} for _ in range(num_workers)]
        dist.all_gather_object(everyone, mine, group=control)
    last: dict[tuple[Any, ...], float] = {}
    for entries in everyone:
        for key, entered in entries.items():
            last[key] = max(entered, last.get(key, entered))
    free_from = float("-inf")  # several futures waited for at once: each counts from the end of the one before
    # In the order in which they were waited for: a send may be issued early and waited for last.
    for op in sorted(recorder.operations, key=lambda op: op.wait_started or 0.0):
        if op.wait_started is None or op.ended is None:
            continue
        op.wait_started = max(op.wait_started, min(free_from, op.ended))
        free_from = max(free_from, op.ended)
        if op.operation != "send":
            op.idle_s = min(op.blocked_s, max(0.0, last.get(op.key, op.entered) - op.wait_started))


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


def communication_rows(recorder: Recorder, is_cuda: bool) -> list[dict[str, Any]]:
    """Rows of ``communication``; on GPU the host's clock does not tell when an operation ended, so times are empty."""
    rows = []
    index: Counter[int] = Counter()
    for op in recorder.operations:
        rows.append(
            {
                "step": op.step,
                "index": index[op.step],
                "operation": op.operation,
                "axis": recorder.axes.get(op.group),
                "group": op.group,
                "group_size": 1 if op.operation in ("send", "recv") else op.group_size,
                "peer": op.peer,
                "phase": op.phase,
                "payload_bytes": op.payload_bytes,
                "ring_bytes": op.ring_bytes,
                "dtype": op.dtype,
                "start_s": op.entered,
                "end_s": None if is_cuda else op.ended,
                "exposed_communication_s": None if is_cuda else op.blocked_s - op.idle_s,
                "idle_s": None if is_cuda else op.idle_s,
            }
        )
        index[op.step] += 1
    return rows


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


def transfers_per_step(rows: list[dict[str, Any]], num_trace_steps: int) -> list[dict[str, Any]]:
    """This worker's operations of a step by operation, axis and phase, beside the formulas in ``show``."""
    totals: Counter[tuple[str, str, str, int]] = Counter()
    counts: Counter[tuple[str, str, str, int]] = Counter()
    for row in rows:
        key = row["operation"], row["axis"], row["phase"], row["group_size"]
        totals[key] += row["payload_bytes"]
        counts[key] += 1
    return [
        {
            **dict(zip(("operation", "axis", "phase", "group_size"), key, strict=True)),
            "count": counts[key] / num_trace_steps,
            "payload_bytes": total / num_trace_steps,
        }
        for key, total in totals.items()
    ]


def resident_peak_bytes() -> int | None:
    """Most memory this process had resident (Linux: VmHWM); code and libraries included."""
    try:
        with open(f"/proc/{os.getpid()}/status", encoding="ascii") as status:  # noqa: PTH123
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    except OSError:
        return None
