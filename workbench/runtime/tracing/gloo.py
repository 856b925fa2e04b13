"""The spans of its operations that gloo reports to torch's profiler.

gloo opens a span when one of its threads begins an operation (send and recv: at issue) and closes it when the operation is
complete, whether or not the worker waits for it (send and recv: only when it does). The profiler records these spans only
(``USER_SCOPE``), not the computation, so that its cost is negligible (``benchmarks/tracing.py``).
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from math import prod

from workbench.torch_private.profiler import start_profiling_user_scopes, stop_profiling

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # at lower levels, each use writes two lines to the log (torch 2.13)
_PREFIX = "gloo:"


@dataclass(frozen=True)
class GlooSpan:
    """One operation of gloo; times in seconds of the machine's monotonic clock."""

    operation: str
    """gloo's name of it: a reduce-scatter runs as an all-reduce."""
    elements: int
    """Elements of the input."""
    step: int
    start: float
    end: float


class GlooSpans:
    """Records spans from construction to ``end``. Only one instance can be active."""

    def __init__(self) -> None:
        start_profiling_user_scopes()

    def end(self, step: int) -> list[GlooSpan]:
        """Ends the recording. Returns the spans, as those of this step, in order of their start."""
        offset = _wall_clock_offset_ns()
        spans = [
            GlooSpan(
                e.name().removeprefix(_PREFIX),
                sum(map(prod, e.shapes())),
                step,
                (e.start_ns() - offset) / 1e9,
                (e.end_ns() - offset) / 1e9,
            )
            for e in stop_profiling()
            if e.name().startswith(_PREFIX)
        ]
        return sorted(spans, key=lambda span: span.start)


def _wall_clock_offset_ns() -> int:
    """Returns the offset from the monotonic clock to the wall clock of the profiler, from the shortest of several readings."""
    readings = [(time.perf_counter_ns(), time.time_ns(), time.perf_counter_ns()) for _ in range(5)]
    before, wall, after = min(readings, key=lambda reading: reading[2] - reading[0])
    return wall - (before + after) // 2
