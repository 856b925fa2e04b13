"""Draws communication that overlaps with computation."""

from __future__ import annotations

import altair as alt
import pandas as pd

from workbench.analysis.overlap import IN_FLIGHT
from workbench.charts.theme import COLOURS, WIDTH, colour

_LANE = 26
"""Height of a lane in pixels."""


def overlap_chart(frame: pd.DataFrame, title: str) -> alt.Chart:
    """Draws the activity of each worker and below it its operations in flight: those below computation are hidden, those below
    waits are exposed. Data of ``overlap.overlap``."""
    frame = frame.sort_values("kind", key=lambda kind: kind.isin(("communication", "idle")), kind="stable")
    lanes = sorted(set(frame["lane"]), key=lambda lane: (int(lane.split()[0]), lane))
    kinds = [kind for kind in COLOURS if kind in set(frame["kind"])]
    return (
        alt.Chart(frame, width=WIDTH, height=_LANE * len(lanes))
        .mark_bar()
        .encode(
            x=alt.X("begin_ms:Q", title="time since the step began (ms)", scale=alt.Scale(nice=False)),
            x2="end_ms:Q",
            y=alt.Y("lane:N", title="worker", sort=lanes),
            color=colour("kind", kinds),
            tooltip=["worker", "kind", "operation", alt.Tooltip("begin_ms", format=".2f"), alt.Tooltip("end_ms", format=".2f")],
        )
        .properties(title=alt.Title(title, subtitle=f"Lower lane of each worker: communication {IN_FLIGHT}."))
    )
