"""Colours and themes of all charts, on light and on dark ground."""

from __future__ import annotations

import io
import json
import re
import textwrap
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import altair as alt

AnyChart = alt.Chart | alt.LayerChart | alt.FacetChart | alt.VConcatChart
Drawn = TypeVar("Drawn", alt.Chart, alt.LayerChart, alt.FacetChart, alt.VConcatChart)

COLOURS = {
    "compute": "#0072B2",
    "forward": "#0072B2",
    "backward": "#56B4E9",
    "backward_input": "#B5E2FA",
    "backward_weight": "#CC79A7",
    "optimizer": "#009E73",
    "exposed communication": "#D55E00",
    "communication": "#D55E00",
    "in flight": "#F4B183",
    "idle": "#A6A6A6",
    "schedule": "#E69F00",
    "other": "#F0E442",
    "parameters": "#0072B2",
    "gradients": "#56B4E9",
    "optimizer state": "#009E73",
    "activations": "#E69F00",
    "buffers": "#CC79A7",
    "workspace": "#882255",
}
"""Okabe and Ito's palette, which is safe for colour-blind readers; waits are grey."""

SEQUENCE_COLOURS = (
    *("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#BBBBBB"),
    *("#44AA99", "#994455", "#999933", "#EE99AA"),
)
"""Colours of a sequence, such as microbatches: Paul Tol's bright palette and more of his colours."""

STRATEGY_COLOURS = {
    "single": "#808080",
    "dp": "#4477AA", "fsdp": "#5F7FC4",
    "layer": "#B8862B",
    "pp": "#D0514E",
    "tp": "#3A8F4D",
    "cp": "#A0559B",
    "ep": "#8A6D3B",
}  # fmt: skip
"""Colour of a split by the start of its label, the same on every page. Its contrast is at least 3:1 with light and with dark
ground (WCAG 2.2, 1.4.11). They are distinct from ``COLOURS``, so that a colour never means a run in one chart and a part of the
step in another."""

_STRATEGIES = re.compile(rf"(?:^|-)({'|'.join(STRATEGY_COLOURS)})(?=\d|$)")
_OTHER_COLOURS = ("#C0507A", "#2E8E85", "#8B67C7", "#7F8B2E")
"""Of combinations and of strategies from outside, by a digest of the label without sizes."""

REFERENCE: dict[str, Any] = {"color": "#888888", "strokeDash": [4, 4]}
"""Style of lines that are not measurements: ideals and fronts."""

WIDTH = 560
_SYMBOL, _CHARACTER = 28, 6.3
"""Pixels of a legend entry: symbol with its margin, and one character of the page's font."""
_TITLE_CHARACTER, _NARROW, _BESIDE = 8, 300, 40
"""Pixels: one character of a title, width of a title on a narrow page, and width of a title beyond that of the plot."""
_LONG = 13
"""Length in characters of a legend entry from which on three do not fit side by side on a narrow page."""


def colour(field: str, values: Sequence[str], columns: int | None = None) -> alt.Color:
    """Returns a colour encoding of a field with values of ``COLOURS``, with a legend in their order.

    Args:
        columns: Columns of the legend; by default as many as fit a narrow page.
    """
    return tone_colour(field, {value: COLOURS[value] for value in values}, columns)


def tone_colour(field: str, tones: Mapping[str, str], columns: int | None = None) -> alt.Color:
    """Returns a colour encoding of a field from value → colour, with a legend in their order."""
    columns = columns or (2 if max(map(len, tones), default=0) > _LONG else 3)
    scale = alt.Scale(domain=list(tones), range=list(tones.values()))
    legend = alt.Legend(orient="top", columns=columns, labelLimit=400, symbolOpacity=1)
    return alt.Color(f"{field}:N", title=None, scale=scale, legend=legend)


def run_colours(labels: Iterable[str]) -> dict[str, str]:
    """Returns label → colour of the compared runs, the same in every chart and on every page."""
    return {label: split_colour(label) for label in labels}


def split_colour(label: str) -> str:
    """Returns the colour of a split, given by a label that begins with that of the split: one per strategy, whatever its size
    and options."""
    split = re.split("[ ,]", label, maxsplit=1)[0]
    strategies = _STRATEGIES.findall(split)
    if len(strategies) == 1:
        return STRATEGY_COLOURS[strategies[0]]
    kind = "-".join(strategies) or split
    return _OTHER_COLOURS[zlib.crc32(kind.encode()) % len(_OTHER_COLOURS)]


def folding(chart: alt.Chart | alt.LayerChart) -> alt.Chart | alt.LayerChart:
    """Returns a copy whose legend columns and title lines adapt to the width. Not for concatenated charts, which have no
    ``width`` signal."""
    folded = chart.copy(deep=True)
    title = alt.Title(folded.title) if isinstance(folded.title, str) else folded.title
    if isinstance(title, alt.TitleParams) and isinstance(title.text, str):
        lines = textwrap.wrap(title.text, _NARROW // _TITLE_CHARACTER)
        is_wide = f"width >= {len(title.text) * _TITLE_CHARACTER - _BESIDE}"
        folded.title = alt.Title(
            **{**title._kwds, "text": alt.ExprRef(f"{is_wide} ? {json.dumps([title.text])} : {json.dumps(lines)}")}
        )
    for layer in folded.layer if isinstance(folded, alt.LayerChart) else [folded]:
        shade = layer.encoding.color
        if isinstance(shade, alt.Color) and isinstance(shade["legend"], alt.Legend):
            shade["legend"]["columns"] = alt.ExprRef(_columns(shade["scale"]["domain"], shade["legend"]["columns"]))
    return folded


def _columns(entries: Sequence[str], most: int) -> str:
    """Returns the number of legend columns as an expression of the width of the plot."""
    expression = "1"
    for number in range(2, most + 1):
        longest = [max(map(len, entries[first::number]), default=0) for first in range(number)]
        needed = round(number * _SYMBOL + sum(longest) * _CHARACTER)
        expression = f"width >= {needed} ? {number} : {expression}"
    return expression


def title_of(chart: AnyChart) -> str:
    """Returns the title of a chart; empty if it has none."""
    title = chart.title.text if isinstance(chart.title, alt.TitleParams) else chart.title
    if isinstance(title, list):
        return " ".join(map(str, title))
    return title if isinstance(title, str) else ""


def described(chart: Drawn, fact: str) -> Drawn:
    """Returns the chart with a description, which Vega gives to screen readers: its title, and the main fact that it shows."""
    chart.description = f"{title_of(chart)} {fact}".strip()
    return chart


def theme(dark: bool = False) -> dict[str, Any]:
    """Returns fonts, lines and backgrounds as a configuration of Vega-Lite."""
    ground, ink, soft, line = (
        ("#181b1f", "#e8eaed", "#a9b0b8", "#353b42") if dark else ("#ffffff", "#1d2126", "#5b636d", "#e3e6ea")
    )
    accent = COLOURS["backward"] if dark else COLOURS["compute"]
    axis = {"labelColor": soft, "titleColor": soft, "gridColor": line, "domainColor": soft, "tickColor": soft}
    return {
        "background": ground,
        "font": "Helvetica, Arial, sans-serif",
        "padding": 12,
        "title": {
            "anchor": "start",
            "frame": "bounds",
            "color": ink,
            "fontSize": 14,
            "subtitleColor": soft,
            "subtitleFontSize": 11.5,
            "offset": 10,
        },
        "axis": {**axis, "labelFontSize": 11, "titleFontSize": 11, "titleFontWeight": "normal", "labelLimit": 300},
        "axisBand": {"grid": False, "domain": False, "ticks": False},
        "legend": {"labelColor": ink, "titleColor": soft, "labelFontSize": 11, "symbolStrokeWidth": 3, "offset": 8},
        "view": {"stroke": None},
        "bar": {"stroke": ground, "strokeWidth": 0.5},
        "rule": {"color": soft},
        "tick": {"color": ink},
        "line": {"color": accent},
        "text": {"color": ink, "fontSize": 11},
    }


def layered(*charts: alt.Chart, **properties: Any) -> alt.LayerChart:
    """Layers charts; ``alt.layer`` has a less specific type."""
    return alt.LayerChart(layer=charts).properties(**properties)


def dressed(chart: AnyChart, dark: bool = False) -> AnyChart:
    """Returns the chart with the theme."""
    return chart.configure(**theme(dark))


def svg(chart: AnyChart, dark: bool = False) -> str:
    """Renders the chart as SVG without a browser, and thus without a limit on rows."""
    text = io.StringIO()
    with alt.data_transformers.enable("default", max_rows=None):
        dressed(chart, dark).save(text, format="svg")
    return text.getvalue()


FIT_WIDTH = alt.AutoSizeParams(type="fit-x", contains="padding")
"""Size of charts with a fixed height per row: a page changes only the width."""
