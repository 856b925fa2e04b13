"""Peak compute rate of the workers, as `workbench calibrate` measured it."""

from __future__ import annotations

from pathlib import Path

from workbench.errors import UsageError
from workbench.hardware.store import read_calibration
from workbench.store.records import Environment


def peak_flops_per_s(
    store: Path, environment: Environment, precision: str, threads: int, num_workers: int, num_cores: int
) -> float | None:
    """Returns the peak of all workers together, in FLOP/s: the rate of matrix products of one worker, times
    min(num_workers, num_cores / threads).

    None without a calibration of the machine and torch version in ``environment``, in this precision and with as many threads.
    """
    try:
        calibration = read_calibration(store, environment)
    except UsageError:  # damaged: `workbench calibrate` says so, a run can do without
        return None
    entries = calibration["matmul"] if calibration else []
    measured = (e["flops_per_s"] for e in entries if (e["precision"], e["num_threads"]) == (precision, threads))
    peak = next(measured, None)
    return None if peak is None else float(peak) * min(num_workers, max(1.0, num_cores / threads))
