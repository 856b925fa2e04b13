"""How busy other programs kept the machine's cores while this run was timed: what a figure may be wrong by."""

from __future__ import annotations

import time
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Load:
    """Processor time since some moment, in seconds."""

    elapsed_s: float
    machine_s: float
    """Of all programs on all cores."""
    own_s: float
    """Of this process."""

    @classmethod
    def now(cls) -> Load:
        """Since the machine and this process started."""
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        return cls(time.perf_counter(), sum(times) - idle - getattr(times, "guest", 0.0), time.process_time())

    def since(self, before: Load) -> Load:
        """What has been added."""
        return Load(self.elapsed_s - before.elapsed_s, self.machine_s - before.machine_s, self.own_s - before.own_s)
