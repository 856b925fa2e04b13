"""The latest runs that can be compared."""

from __future__ import annotations

import pandas as pd

MOST = 10


def latest_comparable(frame: pd.DataFrame) -> list[str]:
    """Returns the ids of the latest finished run of each split, oldest first, with the model, dataset and mode of the newest.

    Args:
        frame: the columns of ``runs``.
    """
    finished = frame[frame["state"] == "finished"].sort_values("created_at", ascending=False)
    if finished.empty:
        return []
    work = ["model", "dataset", "mode"]
    same = finished[(finished[work].fillna("") == finished[work].fillna("").iloc[0]).all(axis=1)]
    one_each = same.drop_duplicates(["split", "threads_per_worker", "link"]).head(MOST)
    return [str(run_id) for run_id in one_each["run_id"][::-1]]
