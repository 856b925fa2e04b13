"""One measured figure of several runs, beside what a formula says of it."""

from __future__ import annotations

import altair as alt
import pandas as pd

from workbench.charts.theme import COLOURS, WIDTH, layered


def measured_chart(
    frame: pd.DataFrame,
    column: str,
    title: str,
    axis: str,
    kind: str = "compute",
    expected: str | None = None,
    mark: str = "expected",
) -> alt.LayerChart:
    """A bar a row, named by the frame's index and in its order; ``side_by_side``.

    Args:
        axis: what is measured, with its unit.
        kind: what of a run it is about, as in ``theme.COLOURS``.
        expected: the column that says where a mark stands, such as where by a formula the bar ends.
        mark: what the mark is.
    """
    values = {"what": frame.index.astype(str), "measured": frame[column]}
    drawn = pd.DataFrame(values | ({"expected": frame[expected]} if expected else {}))
    order = list(drawn["what"])
    y = alt.Y("what:N", title=None, sort=order, axis=alt.Axis(labelLimit=260))
    tooltip = [
        alt.Tooltip("what", title="run"),
        *(alt.Tooltip(name, format=",.4~g") for name in ("measured", "expected") if name in drawn),
    ]
    x = alt.X("measured:Q", title=axis, scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=8))
    layers = [alt.Chart(drawn).mark_bar(color=COLOURS[kind]).encode(x=x, y=y, tooltip=tooltip)]
    heading: str | alt.TitleParams = title
    if expected:
        tick = alt.Chart(drawn).mark_tick(thickness=3, size=20, color="#111111")
        layers.append(tick.encode(x="expected:Q", y=y, tooltip=tooltip))
        heading = alt.TitleParams(title, subtitle=f"Bar: measured. Mark: {mark}.")
    return layered(*layers, title=heading, width=WIDTH - 120, height=26 * len(order))
