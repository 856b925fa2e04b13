"""Draws step time against memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import altair as alt
import pandas as pd

from workbench.charts.theme import REFERENCE, WIDTH, layered, run_colours, tone_colour

_HEIGHT, _LINE, _CHARACTER, _GAP = 280, 13, 6.3, 9
"""Pixels: height of the chart, of a line of text, width of a character, and gap between a point and its name."""
_WIDTHS = (WIDTH, 290)
"""Width of the plot in pixels, on a wide and on a narrow page."""
_FRONT_POSITIONS = tuple(step / 50 for step in range(51))
"""Positions along each segment of the front that a name must not cover."""
_AXIS_RANGE = 1.2
"""Range of the axes relative to the largest value, with room for names."""


def pareto_chart(frame: pd.DataFrame, labels: Iterable[str] = ()) -> alt.LayerChart:
    """Draws step time against peak memory, one point per run, with the front as a line; data of ``comparison.pareto``. ``labels``
    of all compared runs determine the colours."""
    x = alt.X("step_time_ms:Q", title="step time (ms)", scale=_from_zero(frame["step_time_ms"]))
    y = alt.Y("peak_memory_mib:Q", title="peak memory of the largest worker (MiB)", scale=_from_zero(frame["peak_memory_mib"]))
    best = frame[frame["on_front"]]
    encoded = {
        "x": x,
        "y": y,
        "color": tone_colour("split", run_colours([*labels, *frame["split"]])).legend(None),
        "tooltip": [
            "split",
            alt.Tooltip("step_time_ms", title="step (ms)", format=".1f"),
            alt.Tooltip("peak_memory_mib", title="peak (MiB)", format=".1f"),
            alt.Tooltip("on_front", title="Pareto-optimal"),
        ],
    }
    front = alt.Chart(best).mark_line(**REFERENCE).encode(x=x, y=y, order="step_time_ms:Q")
    runs = alt.Chart(frame).mark_point(size=90, strokeWidth=2, opacity=1).encode(**encoded)
    filled = alt.Chart(best).mark_point(size=90, filled=True, opacity=1).encode(**encoded)
    places: dict[str, Any] = {key: alt.ExprRef(f"datum.{key}") for key in ("align", "dx", "dy")}
    names = alt.Chart(_with_name_positions(frame)).mark_text(baseline="middle", **places).encode(x=x, y=y, text="split:N")
    title = alt.Title(
        "Which splits are fast and need little memory?", subtitle="Filled points on the line: no other run is better in both."
    )
    return layered(front, runs, filled, names, title=title, width=WIDTH, height=_HEIGHT)


def _from_zero(values: pd.Series) -> alt.Scale:
    """Returns a scale from zero with room for names beyond the largest value."""
    return alt.Scale(domain=[0, _AXIS_RANGE * values.max()], nice=False)


def _with_name_positions(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the points with the position of each name: the first one that covers no other name, no point and not the front, on
    a wide and on a narrow page."""
    taken = {width: _occupied(frame, width) for width in _WIDTHS}
    points = {width: _points(frame, width) for width in _WIDTHS}
    chosen = []
    for index, name in enumerate(frame["split"]):
        length = _CHARACTER * len(name)
        for align, dx, dy in _places():
            boxes = {}
            for width in _WIDTHS:
                x, y = points[width][index]
                left = x + dx - (length if align == "right" else 0)
                boxes[width] = (left, y + dy - _LINE / 2, left + length, y + dy + _LINE / 2)
            if all(_is_free(box, width, taken[width]) for width, box in boxes.items()):
                break
        for width, box in boxes.items():
            taken[width].append(box)
        chosen.append((align, dx, dy))
    return frame.assign(**dict(zip(("align", "dx", "dy"), zip(*chosen, strict=True), strict=True)))


def _occupied(frame: pd.DataFrame, width: float) -> list[tuple[float, ...]]:
    """Returns the rectangles that no name may cover: the points and the front."""
    points = _points(frame, width)
    front = sorted(point for point, is_best in zip(points, frame["on_front"], strict=True) if is_best)
    line = [(x + (u - x) * t, y + (v - y) * t) for (x, y), (u, v) in pairwise(front) for t in _FRONT_POSITIONS]
    return [(x - half, y - half, x + half, y + half) for places, half in ((points, _GAP / 2), (line, 1.0)) for x, y in places]


def _points(frame: pd.DataFrame, width: float) -> list[tuple[float, float]]:
    """Returns the position of each run in the plot, in pixels from the left and top."""
    across = frame["step_time_ms"] / frame["step_time_ms"].max() * width / _AXIS_RANGE
    down = (1 - frame["peak_memory_mib"] / frame["peak_memory_mib"].max() / _AXIS_RANGE) * _HEIGHT
    return list(zip(across, down, strict=True))


def _is_free(box: tuple[float, ...], width: float, taken: list[tuple[float, ...]]) -> bool:
    left, top, right, bottom = box
    return left >= 0 and top >= 0 and right <= width and bottom <= _HEIGHT and not any(_cover(box, one) for one in taken)


def _places() -> Iterator[tuple[str, float, float]]:
    """Yields positions of a name beside its point, farther and farther above and below it."""
    for distance in (0.0, *(sign * _LINE * step / 2 for step in range(1, 20) for sign in (-1, 1))):
        yield "left", _GAP, distance
        yield "right", -_GAP, distance


def _cover(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
