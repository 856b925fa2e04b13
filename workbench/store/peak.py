"""The fastest that workers' devices can compute, as `workbench calibrate` measured it here."""

from __future__ import annotations

import json
from pathlib import Path

CALIBRATION = "calibration.json"


def peak_flops_per_s(store: Path, precision: str, threads: int, num_workers: int, num_cores: int) -> float | None:
    """What all workers together can do: as often one worker's matrix products with its threads as cores allow, min(workers,
    cores / threads) times. None: there was no calibration with this precision and so many threads."""
    try:
        entries = json.loads((store / CALIBRATION).read_bytes())["matmul"]
        measured = (e["flops_per_s"] for e in entries if (e["precision"], e["num_threads"]) == (precision, threads))
        peak = next(measured, None)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None if peak is None else float(peak) * min(num_workers, max(1.0, num_cores / threads))
