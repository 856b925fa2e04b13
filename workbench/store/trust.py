"""Whether the times of a run show its split alone, or also what else the machine did."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from workbench.store.figures import Summary
from workbench.store.records import RunRecord

MIN_STEPS = 6
"""Fewer values have no 95 % confidence interval of their median (David and Nagaraja 2003, section 7.1)."""

TIMES = frozenset({
    "step_time_s", "step_time_p10_s", "step_time_p90_s", "step_time_p95_s", "samples_per_s", "tokens_per_s", "speedup",
    "speedup_same_cores", "efficiency", "compute_s", "exposed_communication_s", "idle_s", "optimizer_s", "schedule_s", "other_s",
    "bubble_fraction", "imbalance", "time_to_first_token_s", "time_per_token_s", "generated_tokens_per_s", "flops_per_s",
    "utilisation",
})  # fmt: skip
"""Columns of ``runs`` that depend on time. The others are counted and do not change with what the machine does meanwhile."""


class Trust(StrEnum):
    """State of a measured figure of a run. The states of times, all but ``STALE_CALIBRATION``, are from the best to the worst."""

    QUIET = "quiet"
    STALE_CALIBRATION = "stale calibration"
    """Of utilisation only: the calibrated peak may no longer be that of the machine (``hardware/staleness.py``)."""
    SHARED_CORES = "shared cores"
    """The threads of all workers together exceed the cores."""
    TOO_FEW_STEPS = "too few steps"
    """Too few or too short timed steps for a confidence interval, or to tell whether other programs ran."""
    DISTURBED = "disturbed"
    """Other programs kept more cores busy than ``measure.max_other_load_cores`` allows."""

    @property
    def mark(self) -> str:
        """Follows a figure in this state: nothing if quiet."""
        return "" if self is Trust.QUIET else "⚠"


def trust_of_times(record: RunRecord, summary: Summary) -> Trust:
    """Returns the worst state that applies to the times of a finished run."""
    load = summary.other_load_cores
    if load is not None and load > record.max_other_load_cores:
        return Trust.DISTURBED
    steps = summary.num_timed_steps  # None: an earlier version recorded neither these nor the load
    if steps is not None and (steps < MIN_STEPS or (load is None and record.device == "cpu")):
        return Trust.TOO_FEW_STEPS
    if record.device == "cpu" and record.num_workers * record.threads_per_worker > record.num_cores:
        return Trust.SHARED_CORES
    return Trust.QUIET


def trust_of_utilisation(times: Trust, summary: Summary) -> Trust | None:
    """Returns the state of the utilisation of a run whose times are in this state; None if it was not measured."""
    if summary.utilisation is None:
        return None
    return Trust.STALE_CALIBRATION if times is Trust.QUIET and summary.stale_calibration else times


def trust_of(column: str, row: dict[str, Any]) -> Trust:
    """Returns the state of one figure, of the column of a row of ``runs``."""
    state = row["utilisation_trust" if column == "utilisation" else "trust"]
    return Trust(state) if state and column in TIMES else Trust.QUIET
