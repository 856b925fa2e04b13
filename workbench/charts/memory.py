"""Draws memory over time and at the peak."""

from __future__ import annotations

import altair as alt
import pandas as pd

from workbench.analysis.byte_units import byte_unit
from workbench.analysis.memory import CATEGORIES
from workbench.charts.theme import colour

_ORDER = [category.replace("_", " ") for category in CATEGORIES]


def memory_over_time_chart(
    frame: pd.DataFrame, title: str = "What occupies memory during a step?", most_mebibytes: float | None = None
) -> alt.Chart:
    """Draws memory during a step, stacked by category, with the event in the tooltip; data of ``memory.memory_over_time``.

    Args:
        most_mebibytes: End of the axis, for several charts side by side.
    """
    categories = [category for category in _ORDER if category in set(frame["category"])]
    most = most_mebibytes or frame.groupby("time_ms")["mebibytes"].sum().max()
    unit, factor = _unit(most)
    scale = alt.Scale(domain=[0, most_mebibytes * factor]) if most_mebibytes else alt.Scale()
    return (
        alt.Chart(frame.assign(size=frame["mebibytes"] * factor), title=title, width=560, height=220)
        .transform_calculate(order=f"indexof({categories}, datum.category)")
        .mark_area(interpolate="step-after")
        .encode(
            x=alt.X("time_ms:Q", title="time in a memory step (ms; slower than other steps)"),
            y=alt.Y("size:Q", title=f"memory ({unit})", scale=scale, stack="zero"),
            color=colour("category", categories),
            order="order:Q",
            tooltip=[
                "event",
                "category",
                alt.Tooltip("size:Q", title=unit, format=".2f"),
                alt.Tooltip("time_ms", title="time (ms)", format=".2f"),
            ],
        )
    )


def memory_at_peak_chart(
    frame: pd.DataFrame, budget_bytes: int | None = None, title: str = "What occupies memory at the peak of each worker?"
) -> alt.Chart | alt.LayerChart:
    """Draws one stacked bar per worker and a memory budget as a line; data of ``memory.memory_at_peak``."""
    categories = [category for category in _ORDER if category in set(frame["category"])]
    unit, factor = _unit(max(frame.groupby("worker")["mebibytes"].sum().max(), (budget_bytes or 0) / 2**20))
    bars = (
        alt.Chart(frame.assign(size=frame["mebibytes"] * factor))
        .transform_calculate(order=f"indexof({categories}, datum.category)")
        .mark_bar()
        .encode(
            x=alt.X("size:Q", title=f"memory ({unit})"),
            y=alt.Y("worker:N", title="worker", axis=alt.Axis(labelLimit=200)),
            color=colour("category", categories),
            order="order:Q",
            tooltip=["worker", "category", alt.Tooltip("size:Q", title=unit, format=".2f")],
        )
    )
    drawn = bars
    if budget_bytes is not None:
        limit = alt.Chart(pd.DataFrame({"size": [budget_bytes / 2**20 * factor], "text": ["budget"]})).encode(x="size:Q")
        drawn = (
            bars
            + limit.mark_rule(strokeDash=[4, 3], size=2)
            + limit.mark_text(align="right", dx=-4, baseline="top", y=0).encode(text="text:N")
        )
    return drawn.properties(title=title, width=560, height=32 * frame["worker"].nunique())


def _unit(most_mebibytes: float) -> tuple[str, float]:
    """Returns the unit of an axis to this value, from MiB on, and what one MiB is in it."""
    unit, size = byte_unit(max(most_mebibytes, 1.0) * 2**20)
    return unit, 2**20 / size
