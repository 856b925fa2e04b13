"""Rendering of charts in notebooks: interactive in JupyterLab without internet, as a picture where no front end runs.

JupyterLab 4.6 includes Vega-Lite 5 and altair 6 writes Vega-Lite 6, whose charts stay empty there without internet. The charts of
the workbench are the same in both versions, so they are output as version 5, with a PNG that code hosts show. Unnecessary once
JupyterLab includes Vega-Lite 6 (jupyterlab/jupyterlab, vega5-extension).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import ipywidgets
import vl_convert
from PIL import Image

from workbench.charts.theme import AnyChart, theme

MIME = "application/vnd.vegalite.v5+json"
_SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"
_SCALE = 1.5
"""Pixels of the picture per pixel of the chart: sharp enough, and small."""
_CELL, _PLOT = 850, 760
"""Widths in pixels of a chart that fills a cell of JupyterLab on a screen of 1280 pixels, and of its plot."""
_NUM_COLOURS = 256
"""Number of colours of the picture, which reduces its size to a tenth. They are chosen farthest from one another, so that a
legend keeps colours that cover little."""


def enable() -> None:
    """Makes this the renderer of all charts of this process."""
    alt.renderers.register("workbench", _render)
    alt.renderers.enable("workbench")


def mimebundle(chart: alt.TopLevelMixin) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the chart as data and metadata of an output."""
    return _render(chart.to_dict())


def output(chart: alt.TopLevelMixin, is_wide: bool = True) -> dict[str, Any]:
    """Returns the chart as one of the outputs of an ``ipywidgets.Output``; ``is_wide`` if that is as wide as the cell."""
    data, metadata = mimebundle(chart)
    if not is_wide:
        data[MIME] = _live(chart.to_dict())
    return {"output_type": "display_data", "data": data, "metadata": metadata}


def _render(spec: dict[str, Any], **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    data, metadata = _picture([spec], _description(spec))
    return {MIME: _live(_widened(spec)), **data}, metadata


def _live(spec: dict[str, Any]) -> dict[str, Any]:
    return {**spec, "config": theme(), "$schema": _SCHEMA}


def _widened(spec: dict[str, Any]) -> dict[str, Any]:
    """Returns the chart at the width of a cell. JupyterLab's container of a chart is as wide as the chart, which therefore cannot
    take the width of its container; plots side by side keep their widths."""
    if "vconcat" in spec:
        return {
            **spec,
            "vconcat": [{**p, "width": _PLOT} if isinstance(p.get("width"), int | float) else p for p in spec["vconcat"]],
        }
    if not isinstance(spec.get("width"), int | float):
        return spec
    return {**spec, "width": _CELL, "autosize": {"type": "fit-x", "contains": "padding"}}


def _picture(specs: Sequence[dict[str, Any]], description: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the charts below one another as a PNG."""
    parts = [Image.open(io.BytesIO(vl_convert.vegalite_to_png({**s, "config": theme()}, scale=_SCALE))) for s in specs]
    width, height = max(part.width for part in parts), sum(part.height for part in parts)
    drawn, top, png = Image.new("RGB", (width, height), theme()["background"]), 0, io.BytesIO()
    for part in parts:
        drawn.paste(part, (0, top))
        top += part.height
    drawn.quantize(_NUM_COLOURS, Image.Quantize.MAXCOVERAGE).save(png, "PNG", optimize=True)
    data = {"image/png": base64.b64encode(png.getvalue()).decode(), "text/plain": f"<chart: {description}>"}
    shown = {"width": round(width / _SCALE), "height": round(height / _SCALE), "alt": description}
    return data, {"image/png": shown}


def _description(spec: dict[str, Any]) -> str:
    """Returns the description of a chart, or its titles where it has none."""
    if text := spec.get("description"):
        return str(text)
    for parts in ("vconcat", "hconcat"):
        if parts in spec:
            return " ".join(filter(None, map(_description, spec[parts])))
    title = spec.get("title", "")
    text = title.get("text", "") if isinstance(title, dict) else title
    return " ".join(text) if isinstance(text, list) else str(text)


class WidgetBase(ipywidgets.VBox):  # type: ignore[misc]
    """A column of widgets with a still picture, which subclasses define, for where no front end runs: a code host, or a notebook
    without its kernel."""

    def still(self) -> Still:
        """Returns the picture of the current state."""
        raise NotImplementedError

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        still = self.still()
        data, metadata = _picture([part.to_dict() for part in still.parts], still.description)
        return {**super()._repr_mimebundle_(**kwargs), **data, "text/plain": still.description}, metadata


@dataclass(frozen=True)
class Still:
    """What the picture of a widget shows."""

    parts: Sequence[AnyChart]
    """Charts and texts, from top to bottom."""

    description: str
    """The same in words, for who does not see it."""
