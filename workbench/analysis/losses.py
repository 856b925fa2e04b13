"""Loss by step, and whether each split computes what one worker computes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from workbench.store.run_directory import RunDirectory


def losses(runs: Iterable[RunDirectory], rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Split with its verdict, step and loss (mean over the workers that know it), in the order of the runs; ``rows`` are theirs
    in ``runs``."""
    frames = []
    for run, row in zip(runs, rows, strict=True):
        steps = run.table("steps").to_pandas()
        mean = steps.dropna(subset="loss").groupby("step", as_index=False)["loss"].mean()
        frames.append(mean.assign(split=row["split"], run=f"{row['split']}: {verdict(row)}"))
    return pd.concat(frames, ignore_index=True)[["split", "run", "step", "loss"]]  # type: ignore[no-any-return]


def verdict(row: dict[str, Any]) -> str:
    """What the parity check said of a run, in a few words."""
    unknown = "not checked" if row["parity_max_error"] is None else "lossy on purpose"
    return {True: "equals one worker", False: "WRONG", None: unknown}[row["parity_ok"]]
