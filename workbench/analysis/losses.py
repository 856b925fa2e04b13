"""Builds the DataFrame of the losses of several runs, with their differences from those of one worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from workbench.analysis.parity import parity_text
from workbench.store.directory import StoredRun


def losses(runs: Sequence[StoredRun], rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Returns the losses of each run: ``split``, ``parity`` and ``parity_error`` (verdict and largest error of the parity check),
    ``step``, ``loss``, the mean over the workers that compute it, and ``difference``, its distance from that of the first run on
    one worker. The difference is empty for that run and without one.

    Args:
        rows: Rows of the runs as in ``runs``, in the same order.
    """
    frames = []
    for run, row in zip(runs, rows, strict=True):
        steps = run.directory.table("steps").to_pandas()
        mean = steps.dropna(subset="loss").groupby("step", as_index=False)["loss"].mean()
        frames.append(mean.assign(split=row["split"], parity=parity_text(row), parity_error=row["parity_max_error"]))
    single = next((frame for frame, row in zip(frames, rows, strict=True) if row["num_workers"] == 1), None)
    reference = pd.Series(dtype=float) if single is None else single.set_index("step")["loss"]
    for frame in frames:
        frame["difference"] = (frame["loss"] - frame["step"].map(reference)).abs() if frame is not single else float("nan")
    return pd.concat(frames, ignore_index=True)[["split", "parity", "parity_error", "step", "loss", "difference"]]
