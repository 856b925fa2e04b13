"""The load of other programs while workers measured."""

from __future__ import annotations

from collections.abc import Sequence

from workbench.store.figures import CpuLoad

SHORTEST_LOAD_S = 0.3
"""The system counts busy time in ticks of 10 ms a core, whose rounding then stays below 0.1 cores."""


def other_load_cores(loads: Sequence[CpuLoad | None]) -> float | None:
    """Returns the mean number of cores that programs other than the workers kept busy, from the load that each worker saw; None
    if this was too short to tell, or a worker did not see it."""
    measured = [load for load in loads if load]
    if len(measured) < len(loads) or measured[0].elapsed_s < SHORTEST_LOAD_S:
        return None
    others = measured[0].machine_s - sum(load.process_s for load in measured)
    return max(0.0, others / measured[0].elapsed_s)
