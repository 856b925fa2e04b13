"""What moves, by formula and measured."""

from __future__ import annotations

import altair as alt
import pandas as pd

from workbench.analysis.charts.look import COLOURS, WIDTH, layered


def transfers_chart(frame: pd.DataFrame, title: str) -> alt.LayerChart:
    """A bar for what was measured and a mark where the formula expects its end; ``transfers.transfers``."""
    order = list(frame["what"])
    y = alt.Y("what:N", title=None, sort=order, axis=alt.Axis(labelLimit=200))
    tooltip = ["what", "count", "expected_bytes", "measured_bytes", alt.Tooltip("is_bound", title="expected is a bound")]
    x = alt.X("measured_mib:Q", title="MiB a step over the whole run")
    bars = alt.Chart(frame).mark_bar(color=COLOURS["communication"], height=12).encode(x=x, y=y, tooltip=tooltip)
    marks = alt.Chart(frame).mark_tick(thickness=3, size=22).encode(x="expected_mib:Q", y=y, tooltip=tooltip)
    heading = alt.Title(title, subtitle="Bar: measured. Mark: expected by formula.")
    return layered(bars, marks, title=heading, width=WIDTH - 120, height=30 * len(order))
