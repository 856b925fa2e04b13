"""Draws the breakdown of the step time."""

from __future__ import annotations

import altair as alt
import pandas as pd

from workbench.analysis.frames import PARTS
from workbench.charts.theme import WIDTH, colour


def step_parts_chart(frame: pd.DataFrame) -> alt.Chart:
    """Draws the breakdown of the step time, one bar per split; data of ``frames.step_parts``."""
    order = list(dict.fromkeys(frame["split"]))
    return (
        alt.Chart(frame, title="Where does the time of a step go?", width=WIDTH, height=22 * len(order))
        .transform_calculate(order=f"indexof({list(PARTS)}, datum.part)")
        .mark_bar()
        .encode(
            x=alt.X("milliseconds:Q", title="time (ms, mean over workers)"),
            y=alt.Y("split:N", title=None, sort=order, axis=alt.Axis(labelLimit=200)),
            color=colour("part", PARTS),
            order="order:Q",
            tooltip=["split", "part", alt.Tooltip("milliseconds", format=".2f")],
        )
    )
