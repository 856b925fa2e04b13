"""From a worker's records to its rows of communication, once all workers' entries are known."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch.distributed as dist

from workbench.runtime.tracing.recorder import Recorder


def attribute_idle(recorder: Recorder, control: Any, num_workers: int) -> None:
    """Divides each wait: *idle* until the last participant had entered, who is named, then *exposed*. Of a send too: gloo lets
    none go before the receiver has asked for it."""
    mine = {op.key: op.entered for op in recorder.operations}
    everyone: list[dict[tuple[Any, ...], float]] = [mine]
    if num_workers > 1:
        everyone = [{} for _ in range(num_workers)]
        dist.all_gather_object(everyone, mine, group=control)
    last: dict[tuple[Any, ...], tuple[float, int]] = {}
    for rank, entries in enumerate(everyone):
        for key, entered in entries.items():
            last[key] = max((entered, rank), last.get(key, (entered, rank)))
    free_from = float("-inf")  # several futures waited for at once: each counts from the end of the one before
    # In the order in which they were waited for: a send may be issued early and waited for last.
    for op in sorted(recorder.operations, key=lambda op: op.wait_started or 0.0):
        if op.wait_started is None or op.ended is None:
            continue
        op.wait_started = max(op.wait_started, min(free_from, op.ended))
        free_from = max(free_from, op.ended)
        last_entered, late_rank = last.get(op.key, (op.entered, -1))
        op.idle_s = min(op.blocked_s, max(0.0, last_entered - op.wait_started))
        op.late_rank = late_rank if op.idle_s else None


def communication_rows(recorder: Recorder, is_cuda: bool) -> list[dict[str, Any]]:
    """Rows of ``communication``. On GPU the host issues operations and does not see when they run: times are empty, apart from
    when each was issued."""
    rows = []
    index: Counter[int] = Counter()
    for op in recorder.operations:
        row = {
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
            "sequence": op.sequence,
        }
        if not is_cuda:
            row |= {
                "end_s": op.ended,
                "exposed_communication_s": op.exposed_s,
                "idle_s": op.idle_s,
                "blocked_s": op.exposed_s + op.idle_s,
                "late_rank": op.late_rank,
                "completed_s": op.completed,
            }
        rows.append(row)
        index[op.step] += 1
    return rows
