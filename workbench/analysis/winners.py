"""Ranks the runs of a comparison: the fastest, the one with the smallest workers, the one that communicates least."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from workbench.analysis.formatting import factor, mebibytes, milliseconds
from workbench.analysis.trust import is_disturbed
from workbench.messages import listed
from workbench.plan.parity import is_comparable
from workbench.store.trust import TIMES

Row = dict[str, Any]


@dataclass(frozen=True)
class Winner:
    """The best run in one respect."""

    title: str
    """``Fastest``"""

    splits: str
    """Its label; of several runs with the same figure, all labels."""

    figure: str
    """``113.3 ms``"""

    detail: str
    """How it compares with one worker, and what limits it; empty if neither is known."""


def winners(rows: Sequence[Row], limits: Mapping[str, str], work: str) -> list[Winner]:
    """Returns the best runs of a comparison; none if the runs do different work, or if there is one run only.

    Disturbed runs cannot be the fastest, and runs that compute something else win nothing.

    Args:
        rows: rows as in ``runs``.
        limits: what limits a run (``compute``, ``communication``, …), by run id.
        work: the sentence of ``different_work``; empty if the runs do the same work.
    """
    if not (correct := [rows[position] for position in _candidates(rows, work)]):
        return []
    quiet = [row for row in correct if not is_disturbed(row)]
    splits = [row for row in correct if row["num_workers"] > 1]
    single = next((row for row in correct if row["num_workers"] == 1), None)

    def winner(title: str, among: Sequence[Row], column: str, figure: Callable[[float], str], *details: str) -> list[Winner]:
        measured = [row for row in among if row[column] is not None]
        if not measured:
            return []
        best = min(measured, key=lambda row: row[column])
        names = listed([row["split"] for row in measured if row[column] == best[column]])
        texts = {"speedup": _speedup(best), "memory": _share(best, single), "limit": _limit(best, limits)}
        detail = ", ".join(texts[name] for name in details if texts[name])
        return [Winner(title, names, figure(best[column]), detail)]

    return [
        *winner("Fastest", quiet, "step_time_s", lambda value: f"{milliseconds(value)} ms", "speedup", "limit"),
        *winner("Smallest", correct, "peak_memory_bytes", mebibytes, "memory"),
        *winner("Least communication", splits, "communication_bytes_per_step", lambda value: f"{mebibytes(value)} per step"),
    ]


BEST = {
    "step_time_s": min, "samples_per_s": max, "speedup": max, "peak_memory_bytes": min, "communication_bytes_per_step": min,
}  # fmt: skip
"""Column of ``runs`` → which of its values is the best."""


def best_rows(rows: Sequence[Row], work: str) -> dict[str, list[int]]:
    """Returns column of ``BEST`` → positions of the rows with the best value, among the runs that ``winners`` considers.

    Args:
        rows: rows as in ``runs``.
        work: sentence on the different work of the runs, as of ``work.different_work``; then there is no best.
    """
    best = {}
    positions = _candidates(rows, work)
    for column, extreme in BEST.items() if positions else ():
        among = [i for i in positions if rows[i][column] is not None and not (column in TIMES and is_disturbed(rows[i]))]
        if column == "communication_bytes_per_step":
            among = [i for i in among if rows[i]["num_workers"] > 1]
        if among:
            value = extreme(rows[i][column] for i in among)
            best[column] = [i for i in among if rows[i][column] == value]
    return best


def _candidates(rows: Sequence[Row], work: str) -> list[int]:
    """Returns the positions of the rows that can be best: with figures and not wrong; none if they are fewer than two or do
    different work."""
    positions = [i for i, row in enumerate(rows) if row["step_time_s"] is not None and is_comparable(row)]
    return positions if len(positions) > 1 and not work else []


def step_times(rows: Sequence[Row]) -> pd.DataFrame:
    """Returns the step times, shortest first: ``split``, ``step_ms`` (median), ``p10_ms``, ``p90_ms``, ``speedup``, ``workers``
    and ``trust``.

    Args:
        rows: rows as ``comparison.labelled`` returns them.
    """
    measured = sorted((row for row in rows if row["step_time_s"] is not None), key=lambda row: row["step_time_s"])
    return pd.DataFrame(
        {
            "split": [row["split"] for row in measured],
            "step_ms": [row["step_time_s"] * 1e3 for row in measured],
            "p10_ms": [(row["step_time_p10_s"] or row["step_time_s"]) * 1e3 for row in measured],
            "p90_ms": [(row["step_time_p90_s"] or row["step_time_s"]) * 1e3 for row in measured],
            "speedup": [row["speedup"] for row in measured],
            "workers": [row["num_workers"] for row in measured],
            "trust": [row["trust"] for row in measured],
        }
    )


def in_table_order(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows of a comparison with one worker first, then by step time."""
    return sorted(rows, key=lambda row: (row["num_workers"] > 1, row["step_time_s"] is None, row["step_time_s"] or 0.0))


def _speedup(row: Row) -> str:
    return "" if row["speedup"] is None or row["num_workers"] == 1 else f"{factor(row['speedup'])} one worker"


def _share(row: Row, single: Row | None) -> str:
    if single is None or single is row or not single["peak_memory_bytes"]:
        return ""
    return f"{row['peak_memory_bytes'] / single['peak_memory_bytes']:.0%} of one worker"


def _limit(row: Row, limits: Mapping[str, str]) -> str:
    return f"limited by {limits[row['run_id']]}" if row["run_id"] in limits else ""
