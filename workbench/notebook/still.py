"""Parts of the picture of a form or panel, for where no widget is drawn: lines of text, a table, and buttons."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Literal

import altair as alt
import pandas as pd

from workbench.charts.theme import layered

WIDTH = 680
_CHARACTER, _LINE, _GAP = 6.4, 17, 18
"""Pixels: width of a character, height of a line, and space between columns."""
_ON, _OFF = "#0072B2", "#ffffff"


def paragraphs(texts: Sequence[str]) -> alt.Chart:
    """Returns texts, broken into lines."""
    lines = [line for text in texts for line in textwrap.wrap(text, int(WIDTH / _CHARACTER))]
    return _text(pd.DataFrame({"text": lines, "x": 0.0, "y": range(len(lines)), "align": "left"}), len(lines))


def grid(heads: Sequence[str], rows: Sequence[Sequence[str]], num_names: int = 1) -> alt.LayerChart:
    """Returns a table; the cells after the first ``num_names`` columns are numbers, flush right."""
    widths = [max(len(str(row[i])) for row in (heads, *rows)) * _CHARACTER + _GAP for i in range(len(heads))]
    cells = []
    for y, row in enumerate((heads, *rows)):
        for i, text in enumerate(row):
            x = sum(widths[:i]) if i < num_names else sum(widths[: i + 1]) - _GAP
            cells.append({"text": str(text), "x": x, "y": y, "align": "left" if i < num_names else "right", "head": y == 0})
    frame = pd.DataFrame(cells)
    sides: tuple[Literal["left", "right"], ...] = ("left", "right")
    parts = [
        (side, is_head, frame[(frame["align"] == side) & (frame["head"] == is_head)])
        for side in sides
        for is_head in (True, False)
    ]
    return layered(*(_text(part, len(rows) + 1, side, is_head) for side, is_head, part in parts if len(part)))


def buttons(labels: Mapping[str, bool]) -> alt.LayerChart:
    """Returns a row of buttons, label → whether it is on."""
    frame = pd.DataFrame({"text": list(labels), "on": list(labels.values())})
    frame["width"] = frame["text"].str.len() * _CHARACTER + _GAP
    frame["x"] = frame["width"].cumsum() - frame["width"] + 8 * frame.index
    frame["x2"], frame["middle"] = frame["x"] + frame["width"], frame["x"] + frame["width"] / 2
    frame["ink"], frame["fill"] = frame["on"].map({True: _OFF, False: "#1d2126"}), frame["on"].map({True: _ON, False: _OFF})
    across = alt.Scale(domain=[0, WIDTH], nice=False)
    place = {"y": alt.value(4), "color": alt.Color("fill:N", scale=None)}
    boxes = (
        alt.Chart(frame)
        .mark_rect(cornerRadius=3, stroke="#5b636d", strokeWidth=1)
        .encode(x=alt.X("x:Q", axis=None, scale=across), x2="x2:Q", y2=alt.value(26), **place)
    )
    texts = (
        alt.Chart(frame)
        .mark_text(fontSize=12)
        .encode(
            x=alt.X("middle:Q", axis=None, scale=across), y=alt.value(15), text="text:N", color=alt.Color("ink:N", scale=None)
        )
    )
    return layered(boxes, texts, width=WIDTH, height=28)


def _text(frame: pd.DataFrame, num_lines: int, align: Literal["left", "right"] = "left", bold: bool = False) -> alt.Chart:
    weight: Literal["bold", "normal"] = "bold" if bold else "normal"
    return (
        alt.Chart(frame, width=WIDTH, height=max(1, num_lines) * _LINE)
        .mark_text(align=align, baseline="middle", fontSize=12, fontWeight=weight)
        .encode(
            x=alt.X("x:Q", axis=None, scale=alt.Scale(domain=[0, WIDTH], nice=False)),
            y=alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[-0.5, num_lines - 0.5], reverse=True, nice=False)),
            text="text:N",
        )
    )
