"""Contrast of the texts and the graphics of charts, on light and on dark ground: WCAG 2.2, 1.4.3 and 1.4.11."""

from __future__ import annotations

import re

import pytest

from tests.helpers.contrast import contrast
from workbench.analysis.expected import placement
from workbench.api.plans import plan
from workbench.api.specs import RunSpec
from workbench.charts import theme
from workbench.charts.contrast import ink_on
from workbench.charts.mesh import mesh_chart

TEXT, GRAPHICS = 4.5, 3.0
INKS = ("color", "subtitleColor", "labelColor", "titleColor")
LABELS = ["single", "dp2", "fsdp2", "layer2", "pp2", "tp2", "cp2", "ep2", "dp2-tp2", "pp2-tp2", "dp2-pp2", "cp2-tp2"]


@pytest.mark.parametrize("dark", [False, True])
def test_texts_lines_and_strategies_are_seen_on_the_ground(dark: bool) -> None:
    of = theme.theme(dark)
    ground = of["background"]
    assert all(contrast(tone, ground) >= GRAPHICS for tone in theme.run_colours(LABELS).values())
    inks = {
        key: of[part][key] for part in ("title", "axis", "legend", "text") for key in of[part] if key.lower().endswith("color")
    }
    inks = [of[part][key] for part in ("title", "axis", "legend", "text") for key in of[part] if key in INKS]
    assert len(inks) == 7
    assert all(contrast(ink, ground) >= TEXT for ink in inks)
    assert contrast(of["line"]["color"], ground) >= TEXT, "the line of a loss"


@pytest.mark.parametrize("fill", [*theme.COLOURS.values(), *theme.SEQUENCE_COLOURS, *theme.STRATEGY_COLOURS.values()])
def test_numbers_are_legible_on_every_fill(fill: str) -> None:
    assert contrast(ink_on(fill), fill) >= TEXT


@pytest.mark.parametrize("dark", [False, True])
def test_the_part_that_a_slice_holds_is_legible_on_its_cell(dark: bool) -> None:
    """On a slice that is too thin for its text, the text stands on the cell, whose grey is pale."""
    of = theme.theme(dark)
    shown = theme.svg(mesh_chart(placement(plan(RunSpec(split={"tensor": 4})))), dark)
    parts = set(re.findall(r'fill="(#\w{6})"[^>]*>(?:¼|½|\d+%)<', shown))
    assert parts == {of["text"]["color"], "#ffffff"}
    cell = mixed(theme.COLOURS["idle"], of["background"], 0.45)
    assert contrast(of["text"]["color"], cell) >= TEXT
    assert contrast("#ffffff", theme.COLOURS["compute"]) >= TEXT


def mixed(one: str, ground: str, opacity: float) -> str:
    channels = [(int(one[i : i + 2], 16), int(ground[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(opacity * over + (1 - opacity) * under):02x}" for over, under in channels)
