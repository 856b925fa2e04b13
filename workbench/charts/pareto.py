"""Draws step time against memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import altair as alt
import pandas as pd

from workbench.charts.theme import REFERENCE, WIDTH, described, layered, run_colours, tone_colour

_HEIGHT, _LINE, _CHARACTER, _GAP = 280, 13, 6.3, 9
"""Pixels: height of the chart, of a line of text, width of a character, and gap between a point and its name."""
_WIDTHS = (1.5 * WIDTH, WIDTH, 290)
"""Width of the plot in pixels: in a notebook, on a wide and on a narrow page."""
_CORNER = (8, 10)
"""Position in pixels, from the left and from below, of the direction in which runs are better."""
_ARROW = "M0.6,-0.6L-0.6,0.6M-0.6,-0.3L-0.6,0.6L0.3,0.6"
"""An arrow to the lower left, as a path of Vega."""
_FARTHEST = 14
"""Largest distance of a name from its point, in half lines."""
_AXIS_RANGE = 1.2
"""Range of the axes relative to the largest value, with room for names."""


def pareto_chart(frame: pd.DataFrame) -> alt.LayerChart:
    """Draws step time with its spread against peak memory, one point per run, with the front as steps and the area that it
    dominates; data of ``comparison.pareto``."""
    x = alt.X("step_time_ms:Q", title="step time (ms): median, 10th to 90th percentile", scale=_from_zero(_latest(frame)))
    y = alt.Y(
        "peak_memory_mib:Q", title="peak memory of the largest worker (MiB)", scale=_from_zero(frame["peak_memory_mib"].max())
    )
    best = frame[frame["on_front"]].sort_values("step_time_ms")
    colour = tone_colour("split", run_colours(frame["split"])).legend(None)
    tooltip = [
        alt.Tooltip("split"),
        alt.Tooltip("step_time_ms", title="step (ms)", format=".1f"),
        alt.Tooltip("p10_ms", title="10th percentile (ms)", format=".1f"),
        alt.Tooltip("p90_ms", title="90th percentile (ms)", format=".1f"),
        alt.Tooltip("peak_memory_mib", title="peak (MiB)", format=".1f"),
        alt.Tooltip("on_front", title="Pareto-optimal"),
    ]
    top = _AXIS_RANGE * frame["peak_memory_mib"].max()
    steps = pd.DataFrame(_front(best, _AXIS_RANGE * _latest(frame), top), columns=["step_time_ms", "peak_memory_mib"])
    front = alt.Chart(steps.assign(top=top, index=range(len(steps)))).encode(x=x, y=y)
    points = alt.Chart(frame).encode(x=x, y=y, color=colour, tooltip=tooltip)
    places: dict[str, Any] = {key: alt.ExprRef(f"datum.{key}") for key in ("align", "dx", "dy")}
    named = alt.Chart(_with_name_positions(frame)).encode(x=x, y=y)
    corner = alt.Chart(pd.DataFrame({"text": ["better"]}))
    left, low = _CORNER[0], _HEIGHT - _CORNER[1]
    layers = [
        front.mark_area(color=REFERENCE["color"], opacity=0.12).encode(y2="top:Q"),
        front.mark_line(**REFERENCE).encode(order="index:Q"),
        points.mark_rule(strokeWidth=1.5).encode(x=alt.X("p10_ms:Q", title=x["title"], scale=x["scale"]), x2="p90_ms:Q"),
        points.mark_point(size=90, strokeWidth=2, opacity=1),
        points.transform_filter("datum.on_front").mark_point(size=90, filled=True, opacity=1),
        named.transform_filter(f"abs(datum.dy) > {_LINE}")
        .mark_rule(aria=False, strokeWidth=0.7, x2Offset=places["dx"], y2Offset=places["dy"])
        .encode(x2="step_time_ms", y2="peak_memory_mib"),
        named.mark_text(baseline="middle", **places).encode(text="name:N"),
        corner.mark_point(aria=False, shape=_ARROW, size=120, opacity=1, strokeWidth=2, x=left + 6, y=low - 4).encode(
            color=alt.value("#888888")
        ),
        corner.mark_text(align="left", fontWeight="bold", dx=18, x=left, y=low - 4).encode(text="text:N"),
    ]
    title = alt.Title(
        "Which splits are fast and need little memory?",
        subtitle=["Filled points: no other run is better in both.", "Grey area: at least one run is better in both."],
    )
    return described(
        layered(*layers, title=title, width=WIDTH, height=_HEIGHT),
        f"No other run is better in both than {', '.join(best['split'])}.",
    )


def _latest(frame: pd.DataFrame) -> float:
    return float(frame[["step_time_ms", "p90_ms"]].max().max())


def _front(best: pd.DataFrame, right: float, top: float) -> list[tuple[float, float]]:
    """Returns the corners of the front, from its fastest run at the upper edge to its smallest one at the right edge."""
    times, sizes = list(best["step_time_ms"]), list(best["peak_memory_mib"])
    corners = [(times[0], top)]
    for time, size, later in zip(times, sizes, [*times[1:], right], strict=True):
        corners += [(time, size), (later, size)]
    return corners


def _from_zero(most: float) -> alt.Scale:
    """Returns a scale from zero with room for names beyond the largest value."""
    return alt.Scale(domain=[0, _AXIS_RANGE * most], nice=False)


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
                for width, box in boxes.items():
                    taken[width].append(box)
                chosen.append((name, align, dx, dy))
                break
        else:
            chosen.append(("", "left", 0.0, 0.0))  # too crowded: the tooltip and the table name it
    return frame.assign(**dict(zip(("name", "align", "dx", "dy"), zip(*chosen, strict=True), strict=True)))


def _occupied(frame: pd.DataFrame, width: float) -> list[tuple[float, ...]]:
    """Returns the rectangles that no name may cover: the points, their spreads, the front and the corner."""
    latest, highest = _latest(frame), frame["peak_memory_mib"].max()

    def place(time: float, size: float) -> tuple[float, float]:
        return time / latest * width / _AXIS_RANGE, (1 - size / highest / _AXIS_RANGE) * _HEIGHT

    best = frame[frame["on_front"]].sort_values("step_time_ms")
    corners = [place(*corner) for corner in _front(best, _AXIS_RANGE * latest, _AXIS_RANGE * highest)]
    spreads = [
        (place(p10, size), place(p90, size))
        for p10, p90, size in zip(frame["p10_ms"], frame["p90_ms"], frame["peak_memory_mib"], strict=True)
    ]
    lines = [(min(x, u) - 1, min(y, v) - 1, max(x, u) + 1, max(y, v) + 1) for (x, y), (u, v) in [*pairwise(corners), *spreads]]
    half = _GAP / 2
    points = [(x - half, y - half, x + half, y + half) for x, y in _points(frame, width)]
    return [*points, *lines, (0, _HEIGHT - _CORNER[1] - _LINE, _CORNER[0] + 10 * _CHARACTER, _HEIGHT)]


def _points(frame: pd.DataFrame, width: float) -> list[tuple[float, float]]:
    """Returns the position of each run in the plot, in pixels from the left and top."""
    across = frame["step_time_ms"] / _latest(frame) * width / _AXIS_RANGE
    down = (1 - frame["peak_memory_mib"] / frame["peak_memory_mib"].max() / _AXIS_RANGE) * _HEIGHT
    return list(zip(across, down, strict=True))


def _is_free(box: tuple[float, ...], width: float, taken: list[tuple[float, ...]]) -> bool:
    left, top, right, bottom = box
    return left >= 0 and top >= 0 and right <= width and bottom <= _HEIGHT and not any(_cover(box, one) for one in taken)


def _places() -> Iterator[tuple[str, float, float]]:
    """Yields positions of a name beside its point, farther and farther above and below it."""
    for distance in (0.0, *(sign * _LINE * step / 2 for step in range(1, _FARTHEST) for sign in (-1, 1))):
        yield "left", _GAP, distance
        yield "right", -_GAP, distance


def _cover(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
