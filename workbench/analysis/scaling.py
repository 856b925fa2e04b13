"""Computes speed-up against the number of workers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pandas as pd

_SIZE = re.compile(r"(?<=[a-z]{2})\d+(?=-|$)")
"""Matches a number of workers in a label, but not the microbatches of a schedule (``m4``)."""


def way(split: str) -> str:
    """Returns a split's label without its sizes: ``dp4`` → ``dp``."""
    return _SIZE.sub("", split)


def scaling(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Returns ``way``, ``split``, ``workers``, ``speedup`` and ``speedup_same_cores`` of the rows with a speed-up; every way
    starts at one worker.

    Args:
        rows: Rows as ``comparison.labelled`` returns them.
    """
    measured = [row for row in rows if row["speedup"] is not None and row["num_workers"] > 1]
    ways = dict.fromkeys(row["way"] for row in measured)
    begin = [{"way": name, "split": "single", "workers": 1, "speedup": 1.0, "speedup_same_cores": 1.0} for name in ways]
    points = [
        {
            "way": row["way"],
            "split": row["split"],
            "workers": row["num_workers"],
            "speedup": row["speedup"],
            "speedup_same_cores": row["speedup_same_cores"],
        }
        for row in measured
    ]
    frame = pd.DataFrame([*begin, *points], columns=["way", "split", "workers", "speedup", "speedup_same_cores"])
    return frame.astype({"speedup": float, "speedup_same_cores": float})
