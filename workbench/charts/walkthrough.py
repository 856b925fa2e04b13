"""Draws a moment of a step: computation and communication of each worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from workbench.charts.contrast import ink_on
from workbench.charts.theme import COLOURS, FIT_WIDTH, colour, described

_ROW, _LANE = 24, 26
"""Heights of a block and of a communication lane in pixels."""


def walk_chart(cells: pd.DataFrame, wires: pd.DataFrame, kinds: Sequence[str], num_lanes: int, sentence: str) -> alt.LayerChart:
    """Draws one column per worker and one row per block, filled by the part that the worker holds and coloured by its
    computation, with a line below per communication; data of ``step_walkthrough.cells`` and ``wires``.

    Args:
        kinds: Kinds of work of all moments, so that the legend is constant.
        num_lanes: Number of communication lanes of all moments, so that the size is constant.
        sentence: Description of the moment.
    """
    blocks = cells.drop_duplicates("number").sort_values("number")["block"].tolist()
    workers, rows = int(cells["worker"].max()) + 1, len(blocks)
    many = workers > 4
    lane_rows = num_lanes * _LANE / _ROW
    deepest = rows + (lane_rows + 0.3 if num_lanes else 0)
    x_scale = alt.Scale(domain=[0, workers], nice=False, zero=False)
    y_scale = alt.Scale(domain=[0, deepest], reverse=True, nice=False, zero=False)
    heads = alt.Axis(
        values=[worker + 0.5 for worker in range(workers)],
        labelExpr="format(datum.value - 0.5, 'd')" if many else "'worker ' + format(datum.value - 0.5, 'd')",
        orient="top", ticks=False, domain=False, grid=False, labelAngle=0,
    )  # fmt: skip
    names = alt.Axis(
        values=[row + 0.5 for row in range(rows)],
        labelExpr=f"{blocks}[datum.value - 0.5]",
        ticks=False, domain=False, grid=False, labelOverlap=False,
    )  # fmt: skip
    left, width = cells["worker"] + 0.06, 0.88
    frame = cells.assign(
        left=left, right=left + width, top=cells["number"] + 0.08, bottom=cells["number"] + 0.92,
        from_x=left + width * cells["begin"], to_x=left + width * cells["end"],
        middle_x=left + width * (cells["begin"] + cells["end"]) / 2, middle_y=cells["number"] + 0.5,
        ink=[ink_on(COLOURS[kind]) for kind in cells["kind"]],
    )  # fmt: skip
    across: dict[str, Any] = {"scale": x_scale, "axis": heads, "title": "worker" if many else None}
    down: dict[str, Any] = {
        "scale": y_scale,
        "axis": names,
        "title": None,
    }  # equal in every layer, since Vega-Lite merges them
    tooltip = [
        alt.Tooltip("worker:N"),
        alt.Tooltip("place:N", title="mesh coordinate"),
        alt.Tooltip("block:N"),
        alt.Tooltip("parameters:Q", format=",", title="parameters"),
        alt.Tooltip("kind:N", title="action"),
    ]

    def bars(begin: str, end: str, data: pd.DataFrame, opacity: float = 1.0) -> alt.Chart:
        x, y = alt.X(f"{begin}:Q", **across), alt.Y("top:Q", **down)
        mark = alt.Chart(data).mark_bar(cornerRadius=2, opacity=opacity)
        return mark.encode(x=x, x2=f"{end}:Q", y=y, y2="bottom:Q", tooltip=tooltip)

    shade = colour("kind", list(kinds), columns=4)
    layers = [
        bars("left", "right", frame, 0.25).encode(color=alt.value(COLOURS["idle"])),
        bars("left", "right", frame[frame["is_gathered"]], 0.45).encode(color=shade),
        bars("from_x", "to_x", frame).encode(color=shade),
    ]
    labelled = frame[frame["label"] != ""]
    layers.append(
        alt.Chart(labelled)
        .mark_text(fontSize=13, fontWeight="bold")
        .encode(
            x=alt.X("middle_x:Q", **across), y=alt.Y("middle_y:Q", **down), text="label:N", color=alt.Color("ink:N", scale=None)
        )
    )
    layers += _wires(wires, rows, across, down) if len(wires) else []
    height = _ROW * rows + _LANE * num_lanes
    chart = alt.LayerChart(layer=layers, width=520, height=height, autosize=FIT_WIDTH, view=alt.ViewConfig(stroke=None))
    return described(chart, sentence)


def _wires(frame: pd.DataFrame, rows: int, across: dict[str, Any], down: dict[str, Any]) -> list[alt.Chart]:
    """Draws lines between workers with a dot at each; those of sends end in an arrow."""
    tone = COLOURS["communication"]
    y = rows + 0.3 + (frame["lane"] + 0.65) * _LANE / _ROW
    frame = frame.assign(y=y, from_x=frame["low"] + 0.5, to_x=frame["high"] + 0.5, text_x=(frame["low"] + frame["high"] + 1) / 2)
    frame["is_right"] = frame["last"] > frame["first"]
    ends = frame.explode("workers").assign(x=lambda f: f["workers"].astype(float) + 0.5)
    arrives = ends["is_send"] & (ends["workers"] == ends["last"])
    drawn_y = alt.Y("y:Q", **down)
    shape = alt.condition("datum.is_right", alt.value("triangle-right"), alt.value("triangle-left"))
    at = alt.X("x:Q", **across)
    line = alt.Chart(frame.drop(columns="workers")).encode(y=drawn_y, tooltip=["text"])
    return [
        line.mark_rule(color=tone, strokeWidth=2.5).encode(x=alt.X("from_x:Q", **across), x2="to_x:Q"),
        alt.Chart(ends[~arrives]).mark_point(filled=True, color=tone, size=60, opacity=1).encode(x=at, y=drawn_y),
        alt.Chart(ends[arrives]).mark_point(filled=True, color=tone, size=150, opacity=1).encode(x=at, y=drawn_y, shape=shape),
        line.mark_text(dy=-7, fontSize=11).encode(x=alt.X("text_x:Q", **across), text="text:N"),
    ]
