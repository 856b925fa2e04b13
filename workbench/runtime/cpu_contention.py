"""How busy other programs kept the machine's cores while this run was timed: what a figure may be wrong by."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Load:
    """Processor time since some moment, in seconds."""

    elapsed_s: float
    machine_s: float
    """Of all programs on all cores."""
    own_s: float
    """Of this process."""
    ready_s: float | None
    """How long this process's main thread, which computes, was ready and had no core; None where the system does not say."""

    @classmethod
    def now(cls) -> Load:
        """Since the machine and this process started."""
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        machine_s = sum(times) - idle - getattr(times, "guest", 0.0)
        return cls(time.perf_counter(), machine_s, time.process_time(), _ready_s())

    def since(self, before: Load) -> Load:
        """What has been added."""
        ready_s = None if self.ready_s is None or before.ready_s is None else self.ready_s - before.ready_s
        elapsed_s, machine_s = self.elapsed_s - before.elapsed_s, self.machine_s - before.machine_s
        return Load(elapsed_s, machine_s, self.own_s - before.own_s, ready_s)


def _ready_s() -> float | None:
    """Linux keeps it in nanoseconds, the second number (Documentation/scheduler/sched-stats)."""
    try:
        return int(Path("/proc/self/schedstat").read_text(encoding="ascii").split()[1]) / 1e9
    except (OSError, IndexError):
        return None
