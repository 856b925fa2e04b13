"""What all charts share: colours, and a theme on light and on dark ground."""

from __future__ import annotations

import io
import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import Any

import altair as alt

AnyChart = alt.Chart | alt.LayerChart | alt.FacetChart | alt.HConcatChart | alt.VConcatChart

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
"""Okabe and Ito's palette, which colour-blind readers can tell apart; waiting is grey."""

RUN_COLOURS = (
    *("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#BBBBBB"),
    *("#44AA99", "#994455", "#999933", "#EE99AA"),
)
"""Paul Tol's bright palette and, for more than seven, some of his others that are seen on light and on dark: for runs, so that
no colour means a run here and a part of the step there."""

REFERENCE: dict[str, Any] = {"color": "#888888", "strokeDash": [4, 4]}
"""A line that nothing was measured on: an ideal, a front."""

WIDTH = 560
_SYMBOL, _CHARACTER = 28, 6.3
"""Pixels of a legend's entry: its symbol with the space around it, and a letter of a page's font."""
_TITLE_CHARACTER, _NARROW, _BESIDE = 8, 300, 40
"""Pixels of a title's letter, of what a title has on a narrow page, and of what it has beside the plot's width."""
_LONG = 13
"""Characters of a legend's entry of which three do not stand side by side on a narrow page."""


def colour(field: str, values: Sequence[str], columns: int | None = None) -> alt.Color:
    """Colour by a field whose values are named in ``COLOURS``, with a legend in their order, of so many columns or as many as
    fit a narrow page."""
    return tone_colour(field, {value: COLOURS[value] for value in values}, columns)


def tone_colour(field: str, tones: Mapping[str, str], columns: int | None = None) -> alt.Color:
    """Colour by a field, value → colour, with a legend in their order."""
    columns = columns or (2 if max(map(len, tones), default=0) > _LONG else 3)
    scale = alt.Scale(domain=list(tones), range=list(tones.values()))
    legend = alt.Legend(orient="top", columns=columns, labelLimit=400, symbolOpacity=1)
    return alt.Color(f"{field}:N", title=None, scale=scale, legend=legend)


def run_colours(labels: Iterable[str]) -> dict[str, str]:
    """Label → colour of runs that are compared: the same in every chart that is given all of them in the same order."""
    return dict(zip(dict.fromkeys(labels), cycle(RUN_COLOURS), strict=False))


def folding(chart: alt.Chart | alt.LayerChart) -> alt.Chart | alt.LayerChart:
    """A copy whose legend has as many columns, and whose title as many lines, as the width that it is drawn in has room for or
    needs. Of charts side by side or over each other none has a ``width`` that this could ask for."""
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
    """The number of a legend's columns as an expression of the plot's width."""
    expression = "1"
    for number in range(2, most + 1):
        longest = [max(map(len, entries[first::number]), default=0) for first in range(number)]
        needed = round(number * _SYMBOL + sum(longest) * _CHARACTER)
        expression = f"width >= {needed} ? {number} : {expression}"
    return expression


def theme(dark: bool = False) -> dict[str, Any]:
    """Fonts, lines and grounds as Vega-Lite's configuration."""
    ground, ink, soft, line = (
        ("#181b1f", "#e8eaed", "#a9b0b8", "#353b42") if dark else ("#ffffff", "#1d2126", "#5b636d", "#e3e6ea")
    )
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
        "legend": {"labelColor": ink, "titleColor": soft, "labelFontSize": 11, "symbolStrokeWidth": 3},
        "view": {"stroke": None},
        "bar": {"stroke": ground, "strokeWidth": 0.5},
        "rule": {"color": soft},
        "tick": {"color": ink},
        "text": {"color": ink, "fontSize": 11},
    }


def layered(*charts: alt.Chart, **properties: Any) -> alt.LayerChart:
    """Charts over each other; ``alt.layer`` has no such certain type."""
    return alt.LayerChart(layer=charts).properties(**properties)


def side_by_side(*charts: alt.Chart | alt.LayerChart) -> alt.HConcatChart:
    """Charts beside each other, each with its own legend below its title; a shared one would stand above both."""
    return alt.hconcat(*charts, spacing=40).resolve_scale(color="independent")


def dressed(chart: AnyChart, dark: bool = False) -> AnyChart:
    """The chart with the theme."""
    return chart.configure(**theme(dark))


def svg(chart: AnyChart, dark: bool = False) -> str:
    """The chart as an SVG document; drawn without a browser, and so with as many rows as there are."""
    text = io.StringIO()
    with alt.data_transformers.enable("default", max_rows=None):
        dressed(chart, dark).save(text, format="svg")
    return text.getvalue()


FIT_WIDTH = alt.AutoSizeParams(type="fit-x", contains="padding")
"""For charts whose rows have a height of their own: a page may change the width alone."""
