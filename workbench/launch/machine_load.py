"""The load of the machine before a run starts, which decides whether it is quiet enough to be measured."""

from __future__ import annotations

import psutil

WINDOW_S = 1.0
NUM_QUIET_WINDOWS = 3
"""Programs that wake up now and then, such as a browser, are seen within this many windows."""


class MachineLoad:
    """Cores that all programs kept busy between two readings."""

    def __init__(self) -> None:
        psutil.cpu_percent()  # the first call has no interval

    def cores(self) -> float:
        """Returns the mean number of busy cores since the last call."""
        return psutil.cpu_percent() / 100 * (psutil.cpu_count() or 1)
