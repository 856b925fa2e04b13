"""Loss by step, and whether each split computes what one worker computes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from workbench.analysis.parity import in_words
from workbench.store.directory import RunDirectory


def losses(runs: Iterable[RunDirectory], rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Split with its verdict, step and loss (mean over the workers that know it), in the order of the runs; ``rows`` are theirs
    in ``runs``."""
    frames = []
    for run, row in zip(runs, rows, strict=True):
        steps = run.table("steps").to_pandas()
        mean = steps.dropna(subset="loss").groupby("step", as_index=False)["loss"].mean()
        frames.append(mean.assign(split=row["split"], run=f"{row['split']}: {in_words(row)}"))
    return pd.concat(frames, ignore_index=True)[["split", "run", "step", "loss"]]  # type: ignore[no-any-return]
