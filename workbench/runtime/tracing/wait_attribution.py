"""Attribution of waits to late workers, once all workers have exchanged when they entered each operation."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from workbench.runtime.tracing.recorder import Operation, Recorder

_Key = tuple[Any, ...]


def attribute_waits(recorder: Recorder, control: Any, num_workers: int) -> None:
    """Divides the wait for each operation into idle time and exposed communication, and sets when sends were complete.

    A worker is *idle* until the last participant has entered the operation, whose rank becomes ``late_rank``; the rest of the
    wait is *exposed*. This includes sends, since gloo starts none before the receiver has posted its receive. A send is complete
    at the latest when its receive is: gloo ends its own span of a send only when the send is waited for, which torch's schedules
    do at the end of a step.

    Called by all workers together, after ``complete``.

    Args:
        recorder: operations of this worker, changed in place.
        control: process group over all workers that is not recorded.
        num_workers: number of workers of the run.
    """
    own_entries = {op.key: (op.entered, _end(op) if op.operation == "recv" else None) for op in recorder.operations}
    all_entries: list[dict[_Key, tuple[float, float | None]]] = [own_entries]
    if num_workers > 1:
        all_entries = [{} for _ in range(num_workers)]
        dist.all_gather_object(all_entries, own_entries, group=control)
    last: dict[_Key, tuple[float, int]] = {}
    received: dict[_Key, float] = {}
    for rank, operations in enumerate(all_entries):
        for key, (entered, end) in operations.items():
            last[key] = max((entered, rank), last.get(key, (entered, rank)))
            if end is not None:
                received[key] = end
    free_from = float("-inf")  # of several futures waited for at once, each counts from the end of the one before
    # In the order of the waits: a send may be issued early and waited for last.
    for op in sorted(recorder.operations, key=lambda op: op.wait_started or 0.0):
        if op.operation == "send":
            op.completed = _earliest(op.ended, op.completed, received.get(op.key))
        if op.wait_started is None or op.ended is None:
            continue
        op.wait_started = max(op.wait_started, min(free_from, op.ended))
        free_from = max(free_from, op.ended)
        last_entered, late_rank = last[op.key]
        op.idle_s = min(op.wait_s, max(0.0, last_entered - op.wait_started))
        op.late_rank = late_rank if op.idle_s else None


def _end(op: Operation) -> float | None:
    return _earliest(op.ended, op.completed)


def _earliest(*times: float | None) -> float | None:
    return min((time for time in times if time is not None), default=None)
