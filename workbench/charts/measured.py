"""Draws one measured figure of several runs beside its value by formula."""

from __future__ import annotations

import altair as alt
import pandas as pd

from workbench.charts.theme import COLOURS, WIDTH, described, layered


def measured_chart(
    frame: pd.DataFrame,
    column: str,
    title: str,
    axis: str,
    kind: str = "compute",
    expected: str | None = None,
    mark: str = "expected",
) -> alt.LayerChart:
    """Draws one bar per row, named by the index of the frame and in its order; data of ``side_by_side``.

    Args:
        column: Column of the measured figure.
        axis: Title of the axis, with the unit.
        kind: Kind of the figure, which determines its colour (``theme.COLOURS``).
        expected: Column of the marks, such as the value by formula.
        mark: Meaning of the marks.
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
        tick = alt.Chart(drawn).mark_tick(thickness=3, size=20)
        layers.append(tick.encode(x="expected:Q", y=y, tooltip=tooltip))
        heading = alt.TitleParams(title, subtitle=f"Bar: measured. Mark: {mark}.")
    chart = layered(*layers, title=heading, width=WIDTH - 120, height=26 * len(order))
    least, most = drawn.nsmallest(1, "measured").iloc[0], drawn.nlargest(1, "measured").iloc[0]
    fact = f"Least: {least['measured']:.4g}, {least['what']}. Most: {most['measured']:.4g}, {most['what']}. Axis: {axis}."
    return described(chart, fact)
