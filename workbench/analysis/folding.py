"""Draws alike workers as one, so that 64 equal workers are one row."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import groupby

import pandas as pd

MOST_ROWS = 8
"""Largest number of workers that are drawn one by one."""
_MOST_RANGES = 3


def folded(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Returns the rows of one of each set of alike workers, if there are more than ``MOST_ROWS`` workers.

    Args:
        frame: Rows with ``worker`` and ``place``, as of ``expected.placement`` or ``expected.held``.
        by: Columns in which alike workers are equal.

    Returns:
        The rows with ``who`` (``worker 3: pipeline 1, data 1`` or ``workers 0–63 × 64``) and ``row``, the number of the set.
    """
    place = frame.drop_duplicates("worker").set_index("worker")["place"].to_dict()
    sets: dict[Hashable, list[int]] = {}
    for worker, rows in frame.groupby("worker"):
        key = tuple(rows[list(by)].itertuples(index=False, name=None)) if len(place) > MOST_ROWS else worker
        sets.setdefault(key, []).append(int(str(worker)))
    firsts = [workers[0] for workers in sets.values()]
    who = {workers[0]: _who(workers, [place[worker] for worker in workers]) for workers in sets.values()}
    kept = frame[frame["worker"].isin(firsts)]
    return kept.assign(who=kept["worker"].map(who), row=kept["worker"].map(firsts.index))


def _who(workers: Sequence[int], places: Sequence[str]) -> str:
    """Returns the label of a set of workers, with the coordinates that all of them share."""
    shared = [part for part in places[0].split(", ") if part and all(part in place.split(", ") for place in places)]
    name = f"worker {workers[0]}" if len(workers) == 1 else f"workers {_ranges(workers)} × {len(workers)}"
    return f"{name}: {', '.join(shared)}" if shared else name


def _ranges(numbers: Sequence[int]) -> str:
    """Returns numbers as ranges: ``0–3, 8–11``."""
    runs = [[number for _, number in run] for _, run in groupby(enumerate(numbers), key=lambda item: item[1] - item[0])]
    texts = [f"{run[0]}–{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs]
    return ", ".join(texts[:_MOST_RANGES] + (["…"] if len(texts) > _MOST_RANGES else []))
