"""Draws the placement of a plan: blocks and memory of each worker, before anything runs."""

from __future__ import annotations

import json

import altair as alt
import pandas as pd

from workbench.charts.theme import COLOURS, FIT_WIDTH, colour

WHOLE = 0.995
MAX_BLOCKS_NAMED = 12
"""Maximum number of blocks whose names are drawn; the names of more would overlap and appear in tooltips only."""


def mesh_chart(frame: pd.DataFrame) -> alt.LayerChart | alt.FacetChart:
    """Draws the blocks of each worker, one row per worker: a full cell is a complete block, a partly filled one a slice; data of
    ``expected.placement``."""
    workers, blocks = frame["worker"].nunique(), frame.drop_duplicates("number").sort_values("number")["block"].tolist()
    floor = frame["worker"] + 0.9
    frame = frame.assign(
        part=[_part(fraction) for fraction in frame["fraction"]],
        floor=floor,
        ceiling=frame["worker"] + 0.1,
        top=floor - 0.8 * frame["fraction"],
    )
    named = len(blocks) <= MAX_BLOCKS_NAMED
    meaning = ["blocks in model order;", "a partly filled cell is a slice"]
    x = alt.X("block:N", sort=blocks, title=meaning, axis=alt.Axis(labels=named, ticks=False, labelAngle=-40, domain=False))
    labels = json.dumps(list(dict.fromkeys(_worker_label(frame))))
    middles = [index + 0.5 for index in range(workers)]
    rows = alt.Axis(
        values=middles, labelExpr=f"{labels}[datum.value - 0.5]", ticks=False, domain=False, grid=False, labelLimit=230
    )
    scale = alt.Scale(domain=[0, workers], reverse=True, nice=False)
    y = alt.Y("floor:Q", scale=scale, title=None, axis=rows)
    tooltip = [
        alt.Tooltip("worker:N", title="worker"),
        alt.Tooltip("place:N", title="mesh coordinate"),
        alt.Tooltip("samples:N", title="samples"),
        alt.Tooltip("block:N", title="block"),
        alt.Tooltip("parameters:Q", format=",", title="parameters"),
        alt.Tooltip("part:N", title="fraction of the block"),
    ]
    base = alt.Chart(frame).encode(x=x, tooltip=tooltip)
    outline = base.mark_bar(color=COLOURS["idle"], opacity=0.45, cornerRadius=2).encode(y=y, y2="ceiling:Q")
    fill = base.mark_bar(color=COLOURS["compute"], cornerRadius=2).encode(y=y, y2="top:Q")
    layers = [outline, fill]
    if named and frame["fraction"].min() < WHOLE:
        text = base.transform_filter(f"datum.fraction < {WHOLE}").mark_text(fontSize=12, fontWeight="bold", color="white")
        layers.append(text.encode(y=alt.Y("floor:Q", scale=scale), yOffset=alt.value(-9), text="part:N"))
    height = workers * max(18, min(40, 320 // workers))
    return alt.layer(*layers, title="Which worker holds which blocks?", width=520, height=height, autosize=FIT_WIDTH)


def held_chart(frame: pd.DataFrame) -> alt.Chart:
    """Draws the expected memory of each worker, stacked by category; data of ``expected.held``."""
    categories = [c.replace("_", " ") for c in dict.fromkeys(frame["category"])]
    frame = frame.assign(
        who=_worker_label(frame), category=frame["category"].str.replace("_", " "), mebibytes=frame["bytes"] / 2**20
    )
    tooltip = [
        alt.Tooltip("who:N", title="worker"), "category:N", alt.Tooltip("bytes:Q", format=",", title="bytes"),
        alt.Tooltip("mebibytes:Q", format=".2f", title="MiB"),
    ]  # fmt: skip
    return (
        alt.Chart(frame, title="How much memory does each worker need?", width=520, height=alt.Step(24), autosize=FIT_WIDTH)
        .transform_calculate(order=f"indexof({categories}, datum.category)")
        .mark_bar()
        .encode(
            x=alt.X("mebibytes:Q", title="expected memory (MiB)"),
            y=alt.Y("who:N", title=None, sort=list(dict.fromkeys(frame["who"])), axis=alt.Axis(labelLimit=260)),
            color=colour("category", categories),
            order="order:Q",
            tooltip=tooltip,
        )
    )


def _worker_label(frame: pd.DataFrame) -> pd.Series[str]:
    """Returns the labels of workers: ``worker 3: pipeline 1, data 1``."""
    return "worker " + frame["worker"].astype(str) + frame["place"].map(lambda place: f": {place}" if place else "")


def _part(fraction: float) -> str:
    symbols = {2: "½", 3: "⅓", 4: "¼", 5: "⅕", 6: "⅙", 8: "⅛"}
    nearest = round(1 / fraction) if fraction else 0
    if nearest in symbols and abs(fraction * nearest - 1) < 0.02:
        return symbols[nearest]
    return "all" if fraction >= WHOLE else f"{fraction:.0%}"
