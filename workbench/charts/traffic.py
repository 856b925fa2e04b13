"""The traffic matrix: bytes from each worker to each."""

from __future__ import annotations

import altair as alt
import pandas as pd

from workbench.charts.theme import COLOURS

CELL, SMALL_CELL, MOST_LARGE = 44, 30, 4
"""Sizes of a cell in pixels, and up to how many workers it is the larger."""


def traffic_chart(frame: pd.DataFrame, num_workers: int) -> alt.FacetChart:
    """How much each worker sends to each other in a step, a heat map an axis; ``traffic.traffic``."""
    cell = CELL if num_workers <= MOST_LARGE else SMALL_CELL
    workers, axes = list(range(num_workers)), list(dict.fromkeys(frame["axis"]))
    pairs = frame.groupby(["axis", "from", "to"], as_index=False).agg(
        bytes=("bytes", "sum"), attribution=("attribution", lambda names: "; ".join(sorted(set(names))))
    )
    pairs["MiB"] = pairs["bytes"] / 2**20
    most = float(pairs["MiB"].max())
    base = alt.Chart(pairs).encode(
        x=alt.X("to:O", title="to worker", scale=alt.Scale(domain=workers), axis=alt.Axis(orient="top", labelAngle=0)),
        y=alt.Y("from:O", title="from worker", scale=alt.Scale(domain=workers)),
        tooltip=["axis", "from", "to", alt.Tooltip("bytes", title="bytes per step", format=",.0f"), "attribution"],
    )
    shade = alt.Scale(domain=[0, most], range=["#FFFFFF", COLOURS["communication"]], interpolate="rgb")
    cells = base.mark_rect(stroke="#C9C9C9").encode(color=alt.Color("MiB:Q", scale=shade, legend=None))
    numbers = base.mark_text(fontSize=11, color="#000000").encode(text=alt.Text("MiB:Q", format=".2~f"))
    question = ["How much do pairs of workers", "communicate per step?"]
    note = [
        "MiB. Sends: measured.",
        "Collectives: ring formula, to the next rank",
        "of the group (all-to-all: evenly to all).",
    ]
    return (
        alt.layer(cells, numbers, data=pairs)
        .properties(width=cell * num_workers, height=cell * num_workers)
        .facet(column=alt.Column("axis:N", sort=axes, header=alt.Header(title=None, labelExpr="datum.value + ' axis'")))
        .properties(title=alt.Title(question, subtitle=note))
    )
