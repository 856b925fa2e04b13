"""Renders a report as one HTML file with charts as SVG for light and dark, without scripts or external resources. All text is
escaped."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import jinja2

from workbench.charts.theme import AnyChart, svg
from workbench.export.report.parts import Section


def html(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """Renders the document."""
    return _page().render(title=title, subtitle=subtitle, sections=sections, image=_image)


@cache
def _page() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.tests["part"] = lambda part, kind: type(part).__name__ == kind
    return environment.get_template("page.html")


def _image(chart: AnyChart, dark: bool) -> str:
    """Returns the chart as a data URL: in an image, ids of clips and gradients are local."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg(chart, dark).encode()).decode()
