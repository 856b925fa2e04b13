"""The latest runs that can be compared."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from workbench.analysis.work import same_work
from workbench.store.directory import StoredRun

MOST_COMPARED = 20
"""Largest number of runs beside each other: all splits of four workers and their baselines are eleven."""
_MOST_OPENED = 30
"""Latest runs whose specs are read to find those of the same work."""


def comparable(frame: pd.DataFrame, open_run: Callable[[str], StoredRun]) -> list[str]:
    """Returns the ids of the newest finished run and of the latest of each other split that does the same work, oldest first.

    Args:
        frame: the columns of ``runs``.
        open_run: opens a run by its id.
    """
    newest = alike_to_newest(frame).head(_MOST_OPENED)
    opened = [open_run(str(run_id)) for run_id in newest["run_id"]]
    same = {run.id for run in same_work(opened, opened[0])} if opened else set()
    return one_of_each_split(newest[newest["run_id"].isin(same)])


def alike_to_newest(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the finished runs with the model, dataset and mode of the newest of them, newest first.

    Args:
        frame: the columns of ``runs``.
    """
    newest = frame[frame["state"] == "finished"].sort_values("created_at", ascending=False)
    return finished_of(newest, *newest[["model", "dataset", "mode"]].iloc[0]) if len(newest) else newest


def finished_of(frame: pd.DataFrame, model: str, dataset: str, mode: str) -> pd.DataFrame:
    """Returns the finished runs with this model, dataset and mode.

    Args:
        frame: the columns of ``runs``.
    """
    is_alike = (frame[["model", "dataset", "mode"]].fillna("") == [model or "", dataset or "", mode or ""]).all(axis=1)
    return frame[is_alike & (frame["state"] == "finished")]


def one_of_each_split(newest_first: pd.DataFrame) -> list[str]:
    """Returns the ids of the latest run of each split, oldest first."""
    one_each = newest_first.drop_duplicates(["split", "threads_per_worker", "link"]).head(MOST_COMPARED)
    return [str(run_id) for run_id in one_each["run_id"][::-1]]
