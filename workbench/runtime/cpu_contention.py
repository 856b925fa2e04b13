"""CPU contention: the load of other programs during the timed steps, which can distort the measured figures."""

from __future__ import annotations

import time
from pathlib import Path

import psutil

from workbench.store.figures import CpuLoad


class Load(CpuLoad):
    """The processor time in a period, and its measurement."""

    @classmethod
    def now(cls) -> Load:
        """Returns the load since the start of the machine and of this process."""
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        machine_s = sum(times) - idle - getattr(times, "guest", 0.0)
        return cls(time.perf_counter(), machine_s, time.process_time(), _ready_s())

    def since(self, earlier: Load) -> Load:
        """Returns the load since an earlier one."""
        ready_s = None if self.ready_s is None or earlier.ready_s is None else self.ready_s - earlier.ready_s
        elapsed_s, machine_s = self.elapsed_s - earlier.elapsed_s, self.machine_s - earlier.machine_s
        return Load(elapsed_s, machine_s, self.process_s - earlier.process_s, ready_s)


def _ready_s() -> float | None:
    """Reads the run-queue wait time, in ns the second number of schedstat (Linux, Documentation/scheduler/sched-stats)."""
    try:
        return int(Path("/proc/self/schedstat").read_text(encoding="ascii").split()[1]) / 1e9
    except (OSError, IndexError):
        return None
