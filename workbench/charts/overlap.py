"""Draws the communication of each worker in a step below what the worker does meanwhile."""

from __future__ import annotations

import altair as alt
import pandas as pd

from workbench.analysis.trace import IN_FLIGHT
from workbench.charts.theme import COLOURS, WIDTH, colour, described

_HALF_LANE = 26
"""Height in pixels of each of the two lanes of a worker."""


def overlap_chart(frame: pd.DataFrame, title: str) -> alt.Chart:
    """Draws the activity of each worker and below it its operations in flight: those below computation are hidden, those below
    waits are exposed. Data of ``trace.overlap``."""
    frame = frame.sort_values("kind", key=lambda kind: kind.isin(("communication", "idle")), kind="stable")
    lanes = sorted(set(frame["lane"]), key=lambda lane: (int(lane.split()[0]), lane))
    kinds = [kind for kind in COLOURS if kind in set(frame["kind"])]
    chart = (
        alt.Chart(frame, width=WIDTH, height=_HALF_LANE * len(lanes))
        .mark_bar()
        .encode(
            x=alt.X("begin_ms:Q", title="time since the step began (ms)", scale=alt.Scale(nice=False)),
            x2="end_ms:Q",
            y=alt.Y("lane:N", title="worker", sort=lanes),
            color=colour("kind", kinds),
            tooltip=[
                "worker",
                "kind",
                "operation",
                alt.Tooltip("begin_ms", title="begin (ms)", format=".2f"),
                alt.Tooltip("end_ms", title="end (ms)", format=".2f"),
            ],
        )
        .properties(title=alt.Title(title, subtitle=f"Lower lane of each worker: communication {IN_FLIGHT}."))
    )
    spans = frame.assign(ms=frame["end_ms"] - frame["begin_ms"])
    in_flight = spans[spans["kind"] == IN_FLIGHT]
    return described(chart, f"{len(in_flight)} operations, {in_flight['ms'].sum():.1f} ms {IN_FLIGHT} in total.")
