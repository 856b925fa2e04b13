"""The latest runs that can be compared."""

from __future__ import annotations

import pandas as pd

MOST = 10


def alike_to_newest(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the finished runs with the model, dataset and mode of the newest of them, newest first.

    Args:
        frame: the columns of ``runs``.
    """
    finished = frame[frame["state"] == "finished"].sort_values("created_at", ascending=False)
    work = finished[["model", "dataset", "mode"]].fillna("")
    return finished[(work == work.iloc[0]).all(axis=1)] if len(finished) else finished


def one_of_each_split(newest_first: pd.DataFrame) -> list[str]:
    """Returns the ids of the latest run of each split, oldest first."""
    one_each = newest_first.drop_duplicates(["split", "threads_per_worker", "link"]).head(MOST)
    return [str(run_id) for run_id in one_each["run_id"][::-1]]
