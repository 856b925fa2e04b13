"""Communication, expected and measured."""

from __future__ import annotations

import altair as alt
import pandas as pd

from workbench.charts.theme import COLOURS, WIDTH, layered


def transfers_chart(frame: pd.DataFrame, title: str) -> alt.LayerChart:
    """A bar for what was measured and a mark where the formula expects its end; ``transfers.transfers``."""
    order = list(frame["what"])
    y = alt.Y("what:N", title=None, sort=order, axis=alt.Axis(labelLimit=200))
    tooltip = [
        alt.Tooltip("what", title="operation"),
        "count",
        alt.Tooltip("expected_bytes", title="expected bytes"),
        alt.Tooltip("measured_bytes", title="measured bytes"),
        alt.Tooltip("is_bound", title="expected is an upper bound"),
    ]
    x = alt.X("measured_mib:Q", title="communication per step, all workers (MiB)")
    bars = alt.Chart(frame).mark_bar(color=COLOURS["communication"], height=12).encode(x=x, y=y, tooltip=tooltip)
    marks = alt.Chart(frame).mark_tick(thickness=3, size=22).encode(x="expected_mib:Q", y=y, tooltip=tooltip)
    heading = alt.Title(title, subtitle="Bar: measured. Mark: expected.")
    return layered(bars, marks, title=heading, width=WIDTH - 120, height=30 * len(order))
