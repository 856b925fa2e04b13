"""Names of lines at their ends, which replace a legend."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import altair as alt
import pandas as pd

_LINE = 13
"""Height in pixels of a line of text."""
_LEADER = 14
"""Length in pixels of the leader from the end of a line to its name."""


def line_names(
    ends: pd.DataFrame, field: str, x: alt.X, y: alt.Y, colour: alt.Color, range_of_y: Sequence[float], height: float
) -> tuple[alt.Chart, alt.Chart]:
    """Returns the leaders and the names of lines, none of which covers another.

    Args:
        ends: one row per line: its last point, and its ``name``.
        field: column of ``y`` in ``ends``; that of ``x`` is its own field.
        x, y, colour: encodings of the lines.
        range_of_y: the values at the lower and at the upper end of the axis; of their logarithms for a logarithmic one.
        height: height of the plot in pixels.
    """
    low, high = range_of_y
    places = [(high - value) / (high - low) * height for value in ends[field]]
    placed = ends.assign(shift=[at - place for at, place in zip(spread(places, height), places, strict=True)])
    shift: Any = alt.ExprRef("datum.shift")
    base = alt.Chart(placed).encode(x=x, y=y)
    leaders = base.mark_rule(x2Offset=_LEADER, y2Offset=shift).encode(x2=x["shorthand"], y2=y["shorthand"], color=colour)
    names = base.mark_text(align="left", baseline="middle", dx=_LEADER + 3, dy=shift).encode(text="name:N")
    return leaders, names


def spread(places: Sequence[float], height: float) -> list[float]:
    """Returns places from 0 to ``height``, in pixels, in the order of the given ones and near them, at least a line apart as long
    as there is room."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    found = list(places)
    for above, below in pairwise(order):
        found[below] = max(found[below], found[above] + _LINE)
    if order and found[order[-1]] > height - _LINE / 2:
        found[order[-1]] = height - _LINE / 2
        for below, above in pairwise(order[::-1]):
            found[above] = min(found[above], found[below] - _LINE)
    return found
