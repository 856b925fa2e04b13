"""Peak compute rate of the workers, as `workbench calibrate` measured it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from workbench.errors import UsageError
from workbench.hardware.staleness import staleness
from workbench.hardware.store import read_calibration
from workbench.store.records import Environment, RunRecord


@dataclass(frozen=True)
class Peak:
    """The calibrated peak of all workers of a run together."""

    flops_per_s: float

    stale: str
    """Why the calibration may not hold for the run; empty if it does."""


def calibrated_peak(store: Path, environment: Environment, record: RunRecord, precision: str) -> Peak | None:
    """Returns the peak of a run: the rate of matrix products of one worker, times min(num_workers, num_cores /
    threads_per_worker).

    None without a calibration of the machine and torch version in ``environment``, in this precision and with as many threads.
    """
    try:
        calibration = read_calibration(store, environment)
    except UsageError:  # damaged: `workbench calibrate` says so, a run can do without
        return None
    if calibration is None:
        return None
    threads = record.threads_per_worker
    measured = (e["flops_per_s"] for e in calibration["matmul"] if (e["precision"], e["num_threads"]) == (precision, threads))
    if (of_one := next(measured, None)) is None:
        return None
    num_alone = min(record.num_workers, max(1.0, record.num_cores / threads))
    return Peak(float(of_one) * num_alone, staleness(calibration, environment, record))
