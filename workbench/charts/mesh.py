"""Draws the placement of a plan: blocks and memory of each worker, before anything runs."""

from __future__ import annotations

import json
from typing import Any

import altair as alt
import pandas as pd

from workbench.analysis.byte_units import byte_unit, in_bytes
from workbench.analysis.folding import folded
from workbench.charts.contrast import ink_on
from workbench.charts.theme import COLOURS, FIT_WIDTH, colour, described, layered

WHOLE = 0.995
MAX_BLOCKS_NAMED = 12
"""Maximum number of blocks whose names are drawn; the names of more would overlap and appear in tooltips only."""
_TEXT = 12
"""Font size in pixels of the part of a block."""
_FAR = 4
"""A limit of more than this multiple of the largest bar is not drawn: beside it the bars could not be read."""


def mesh_chart(frame: pd.DataFrame) -> alt.LayerChart:
    """Draws the blocks of each worker, one row per worker, or per set of alike workers if there are many: a full cell is a
    complete block, a partly filled one a slice; data of ``expected.placement``."""
    frame = folded(frame, ("block", "parameters", "fraction"))
    workers, blocks = frame["row"].nunique(), frame.drop_duplicates("number").sort_values("number")["block"].tolist()
    floor = frame["row"] + 0.9
    frame = frame.assign(
        part=[_part(fraction) for fraction in frame["fraction"]],
        floor=floor,
        ceiling=frame["row"] + 0.1,
        top=floor - 0.8 * frame["fraction"],
    )
    named = len(blocks) <= MAX_BLOCKS_NAMED
    meaning = ["blocks in model order;", "a partly filled cell is a slice"]
    x = alt.X("block:N", sort=blocks, title=meaning, axis=alt.Axis(labels=named, ticks=False, labelAngle=-40, domain=False))
    labels = json.dumps(list(frame.drop_duplicates("row").sort_values("row")["who"]), ensure_ascii=False)
    middles = [index + 0.5 for index in range(workers)]
    rows = alt.Axis(
        values=middles, labelExpr=f"{labels}[datum.value - 0.5]", ticks=False, domain=False, grid=False, labelLimit=230
    )
    scale = alt.Scale(domain=[0, workers], reverse=True, nice=False)
    y = alt.Y("floor:Q", scale=scale, title=None, axis=rows)
    tooltip = [
        alt.Tooltip("who:N", title="worker"),
        alt.Tooltip("samples:N", title="samples of the first" if frame["worker"].nunique() < workers else "samples"),
        alt.Tooltip("block:N", title="block"),
        alt.Tooltip("parameters:Q", format=",", title="parameters"),
        alt.Tooltip("part:N", title="fraction of the block"),
    ]
    base = alt.Chart(frame).encode(x=x, tooltip=tooltip)
    outline = base.mark_bar(color=COLOURS["idle"], opacity=0.45, cornerRadius=2).encode(y=y, y2="ceiling:Q")
    fill = base.mark_bar(color=COLOURS["compute"], cornerRadius=2).encode(y=y, y2="top:Q")
    layers = [outline, fill]
    row_height = max(18, min(40, 320 // workers))
    if named and frame["fraction"].min() < WHOLE:
        layers += _parts(frame[frame["fraction"] < WHOLE], x, scale, row_height)
    chart = layered(*layers, title="Which worker holds which blocks?", width=520, height=workers * row_height, autosize=FIT_WIDTH)
    return described(chart, f"{len(blocks)} blocks on {frame['worker'].nunique()} workers.")


def _parts(frame: pd.DataFrame, x: alt.X, scale: alt.Scale, row_height: float) -> list[alt.Chart]:
    """Draws the part of a block that a slice holds: on the slice if it is high enough, otherwise above it."""
    is_on = 0.8 * frame["fraction"] * row_height >= _TEXT
    text: dict[str, Any] = {"fontSize": _TEXT, "fontWeight": "bold"}
    y = alt.Y("middle:Q", scale=scale, title=None)
    on = alt.Chart(frame.assign(middle=(frame["floor"] + frame["top"]) / 2)[is_on]).encode(x=x, y=y, text="part:N")
    above = alt.Chart(frame.assign(middle=(frame["ceiling"] + frame["top"]) / 2)[~is_on]).encode(x=x, y=y, text="part:N")
    texts = [on.mark_text(color=ink_on(COLOURS["compute"]), **text), above.mark_text(**text)]
    return [chart for chart, is_any in zip(texts, (is_on.any(), not is_on.all()), strict=True) if is_any]


def held_chart(frame: pd.DataFrame, limit_bytes: int | None = None, limit_name: str = "limit") -> alt.LayerChart:
    """Draws the expected memory of each worker, stacked by category, in one row per set of alike workers if there are many; data
    of ``expected.held``.

    Args:
        limit_bytes: Memory that a worker may use, drawn as a line unless it is far beyond the bars.
        limit_name: Name of that limit.
    """
    categories = [c.replace("_", " ") for c in dict.fromkeys(frame["category"])]
    frame = folded(frame, ("category", "bytes"))
    sums = frame.groupby("worker")["bytes"].sum()
    largest = float(sums.max())
    is_near = limit_bytes is not None and limit_bytes <= _FAR * largest
    unit, size = byte_unit(max(largest, limit_bytes or 0) if is_near else largest)
    frame = frame.assign(category=frame["category"].str.replace("_", " "), size=frame["bytes"] / size)
    tooltip = [
        alt.Tooltip("who:N", title="worker"), "category:N", alt.Tooltip("bytes:Q", format=",", title="bytes"),
        alt.Tooltip("size:Q", format=".2f", title=unit),
    ]  # fmt: skip
    bars = (
        alt.Chart(frame)
        .transform_calculate(order=f"indexof({categories}, datum.category)")
        .mark_bar()
        .encode(
            x=alt.X("size:Q", title=f"expected memory ({unit})"),
            y=alt.Y("who:N", title=None, sort=list(dict.fromkeys(frame["who"])), axis=alt.Axis(labelLimit=260)),
            color=colour("category", categories),
            order="order:Q",
            tooltip=tooltip,
        )
    )
    subtitle = [] if limit_bytes is None else _against(largest, limit_bytes, limit_name)
    of: dict[str, Any] = {
        "title": alt.Title("How much memory does each worker need?", subtitle=subtitle),
        "width": 520,
        "height": alt.Step(24),
        "autosize": FIT_WIDTH,
    }
    fact = " ".join(subtitle) or f"Largest worker: {in_bytes(largest)}."
    if not is_near:
        return described(layered(bars, **of), fact)
    limit = alt.Chart(pd.DataFrame({"size": [(limit_bytes or 0) / size], "name": [limit_name]})).encode(x="size:Q")
    line = limit.mark_rule(color=COLOURS["communication"], strokeDash=[5, 3], size=2).encode(tooltip=["name:N"])
    return described(layered(bars, line, **of), fact)


def _against(largest: float, limit: int, name: str) -> list[str]:
    """Returns how the largest worker compares with a limit, in lines that a narrow page shows whole."""
    verdict = "does not fit" if largest > limit else "fits"
    return [f"Largest worker: {in_bytes(largest)}.", f"{name[0].upper()}{name[1:]}: {in_bytes(limit)} per worker ({verdict})."]


def _part(fraction: float) -> str:
    symbols = {2: "½", 3: "⅓", 4: "¼", 5: "⅕", 6: "⅙", 8: "⅛"}
    nearest = round(1 / fraction) if fraction else 0
    if nearest in symbols and abs(fraction * nearest - 1) < 0.02:
        return symbols[nearest]
    return "all" if fraction >= WHOLE else f"{fraction:.0%}"
