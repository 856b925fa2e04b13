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
    """The most bytes that torch's allocator had given out while this context lasted; of a GPU also how well it used what it
    had reserved.

    On CPU the profiler's record of every allocation and its end in the threads of the step, C++'s own included (Chrome's
    ``[memory]`` events), counted from what was alive when it began, which the allocator does not tell. On GPU the caching
    allocator's statistics.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.growth_bytes = 0
        """On CPU, above the bytes at the beginning."""
        self.figures: dict[str, Any] = {}
        """On GPU: bytes allocated and reserved at the most, and the part of what was reserved that no tensor used."""
        self.workspaces: dict[int, int] = {}
        """On CPU: operation → the most bytes that it had allocated beyond what was left when it ended."""

    def operation(self, index: int) -> record_function:
        """Marks one operation of the thread of the step."""
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
    """Of ``torch.cuda.memory_stats``; fragmentation is 1 − allocated / reserved."""
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
