"""Draws where the time of a step goes."""

from __future__ import annotations

import altair as alt
import pandas as pd

from workbench.analysis.comparison import PARTS
from workbench.charts.theme import WIDTH, colour, described, layered


def step_parts_chart(frame: pd.DataFrame) -> alt.LayerChart:
    """Draws the breakdown of the step time, one bar per split and a tick at the median of the timed steps, shortest first; data
    of ``comparison.step_parts``."""
    order = list(dict.fromkeys(frame.sort_values("step_ms", kind="stable")["split"]))
    y = alt.Y("split:N", title=None, sort=order, axis=alt.Axis(labelLimit=220))
    bars = (
        alt.Chart(frame)
        .transform_calculate(order=f"indexof({list(PARTS)}, datum.part)")
        .mark_bar()
        .encode(
            x=alt.X("milliseconds:Q", title="time (ms)"),
            y=y,
            color=colour("part", PARTS),
            order="order:Q",
            tooltip=["split", "part", alt.Tooltip("milliseconds", title="ms", format=".2f")],
        )
    )
    medians = (
        alt.Chart(frame.drop_duplicates("split"))
        .mark_tick(thickness=3, size=18)
        .encode(x=alt.X("step_ms:Q"), y=y, tooltip=["split", alt.Tooltip("step_ms", title="median (ms)", format=".1f")])
    )
    title = alt.Title(
        "Where does the time of a step go?",
        subtitle=["Bars: trace steps, mean over workers.", "Tick: median of the timed steps, as in the table."],
    )
    chart = layered(bars, medians, title=title, width=WIDTH, height=26 * len(order))
    most = frame[frame["split"] == order[0]].nlargest(1, "milliseconds").iloc[0]
    fact = (
        f"Shortest step: {order[0]}, {most['step_ms']:.1f} ms; its largest part is {most['part']}, {most['milliseconds']:.1f} ms."
    )
    return described(chart, fact)
