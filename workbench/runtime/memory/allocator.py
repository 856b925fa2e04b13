"""Peak memory as torch's allocator and the operating system report it, independent of the tensors that the tracker sees."""

from __future__ import annotations

import os
from bisect import bisect_left
from itertools import accumulate
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from workbench.torch_private.profiler import raw_events

_OPERATION = "workbench operation "


class AllocatorPeak:
    """Measures the peak of the bytes allocated by torch's allocator within this context; on GPU also the fragmentation.

    On CPU it comes from the profiler's record of every allocation and release in the threads of the step, including those of C++
    (``[memory]`` events), relative to the bytes at the beginning, which the allocator does not report. On GPU it comes from the
    statistics of the caching allocator.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.growth_bytes = 0
        """On CPU: peak above the bytes at the beginning."""
        self.figures: dict[str, Any] = {}
        """On GPU: peaks of allocated and reserved bytes, and the share of the reserved bytes that no tensor used."""
        self.workspaces: dict[int, int] = {}
        """On CPU: operation → bytes of workspace, the peak within the operation above the larger of the bytes before and after
        it."""

    def operation(self, index: int) -> record_function:
        """Returns a context that marks one operation of the thread of the step."""
        return record_function(f"{_OPERATION}{index}")

    def __enter__(self) -> AllocatorPeak:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
            self._profile.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self.device.type == "cuda":
            self.figures = cuda_figures(torch.cuda.memory_stats(self.device))
            return
        self._profile.__exit__(*error)
        assert self._profile.profiler is not None
        events = raw_events(self._profile.profiler)
        changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
        self.growth_bytes = max(accumulate((change for _, change in changes), initial=0))
        times = [time for time, _ in changes]
        for event in (event for event in events if event.name().startswith(_OPERATION)):
            inside = changes[bisect_left(times, event.start_ns()) : bisect_left(times, event.end_ns())]
            totals = list(accumulate((change for _, change in inside), initial=0))
            if (workspace := max(totals) - max(totals[0], totals[-1])) > 0:
                self.workspaces[int(event.name().removeprefix(_OPERATION))] = workspace


def cuda_figures(statistics: dict[str, Any]) -> dict[str, Any]:
    """Returns the figures of ``torch.cuda.memory_stats``; fragmentation is 1 − allocated / reserved."""
    allocated, reserved = statistics["allocated_bytes.all.peak"], statistics["reserved_bytes.all.peak"]
    return {
        "allocated_peak_bytes": allocated,
        "reserved_peak_bytes": reserved,
        "fragmentation": 1 - allocated / reserved if reserved else None,
    }


def resident_peak_bytes() -> int | None:
    """Returns the peak resident memory of this process in bytes, code and libraries included; None without ``/proc`` (Linux)."""
    try:
        with open(f"/proc/{os.getpid()}/status", encoding="ascii") as status:  # noqa: PTH123
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    except OSError:
        return None
