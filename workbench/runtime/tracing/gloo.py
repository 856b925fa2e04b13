"""When gloo's operations truly ended: the spans that gloo itself gives to torch's profiler.

gloo opens a span when one of its threads begins an operation (send and recv: when it is issued) and closes it when it is done,
whether or not anybody waits (send and recv: only then). The profiler is told to look at these spans alone (``USER_SCOPE``),
not at what the worker computes, so that it costs next to nothing (``benchmarks/tracing.py``).
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from math import prod

from workbench.torch_private.profiler import start_profiling_user_scopes, stop_profiling

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # below it, it writes two lines into the worker's log at each use (torch 2.13)
_PREFIX = "gloo:"


@dataclass(frozen=True)
class GlooSpan:
    """One operation as gloo saw it; times in seconds of the machine's monotonic clock."""

    operation: str
    """gloo's word for it: a reduce-scatter runs as an all-reduce."""
    elements: int
    """Of what goes in."""
    step: int
    start: float
    end: float


class GlooSpans:
    """Watches from its making to its end; one at a time."""

    def __init__(self) -> None:
        start_profiling_user_scopes()

    def end(self, step: int) -> list[GlooSpan]:
        """What was seen, in the order in which it began."""
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
    """From the monotonic clock to the wall's, which is the profiler's; of several readings the least interrupted."""
    readings = [(time.perf_counter_ns(), time.time_ns(), time.perf_counter_ns()) for _ in range(5)]
    before, wall, after = min(readings, key=lambda reading: reading[2] - reading[0])
    return wall - (before + after) // 2
