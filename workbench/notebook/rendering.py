"""Rendering of charts in notebooks: interactive in JupyterLab without internet, as a picture where no front end runs.

JupyterLab 4.6 includes Vega-Lite 5 and altair 6 writes Vega-Lite 6, whose charts stay empty there without internet. The charts of
the workbench are the same in both versions, so they are output as version 5, with a PNG that code hosts show. Unnecessary once
JupyterLab includes Vega-Lite 6 (jupyterlab/jupyterlab, vega5-extension).
"""

from __future__ import annotations

import base64
import io
from typing import Any

import altair as alt
import ipywidgets
import vl_convert
from PIL import Image

from workbench.charts.theme import theme

MIME = "application/vnd.vegalite.v5+json"
_SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"
_SCALE = 1.5
"""Pixels of the picture per pixel of the chart: sharp enough, and small."""
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


def picture(chart: alt.TopLevelMixin) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the data and metadata of the chart without the interactive version: a PNG."""
    data, metadata = mimebundle(chart)
    del data[MIME]
    return data, metadata


def output(chart: alt.TopLevelMixin) -> dict[str, Any]:
    """Returns the chart as one of the outputs of an ``ipywidgets.Output``."""
    data, metadata = mimebundle(chart)
    return {"output_type": "display_data", "data": data, "metadata": metadata}


def _render(spec: dict[str, Any], **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    spec = {**spec, "config": theme()}
    with Image.open(io.BytesIO(vl_convert.vegalite_to_png(spec, scale=_SCALE))) as drawn:
        width, height = drawn.size
        few_colours, png = drawn.convert("RGB").quantize(_NUM_COLOURS, Image.Quantize.MAXCOVERAGE), io.BytesIO()
    few_colours.save(png, "PNG", optimize=True)
    data = {
        MIME: {**spec, "$schema": _SCHEMA},
        "image/png": base64.b64encode(png.getvalue()).decode(),
        "text/plain": f"<chart: {_title(spec)}>",
    }
    return data, {"image/png": {"width": round(width / _SCALE), "height": round(height / _SCALE)}}


def _title(spec: dict[str, Any]) -> str:
    if "vconcat" in spec:
        return " ".join(map(_title, spec["vconcat"]))
    title = spec.get("title", "")
    return str(title.get("text", "")) if isinstance(title, dict) else str(title)


class WidgetBase(ipywidgets.VBox):  # type: ignore[misc]
    """A column of widgets with a still image, which subclasses define."""

    def still(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns data and metadata, by MIME type, of what is shown where no front end runs."""
        raise NotImplementedError

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        data, metadata = self.still()
        return {**super()._repr_mimebundle_(**kwargs), **data}, metadata
