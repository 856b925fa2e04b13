"""Charts of communication: expected and measured volume, and the traffic matrix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import altair as alt
import pandas as pd

from workbench.analysis.byte_units import byte_unit, in_bytes
from workbench.charts.theme import COLOURS, WIDTH, described, layered

CELL, SMALL_CELL, MOST_LARGE = 44, 30, 4
"""Sizes of a cell in pixels, and the largest number of workers with the larger one."""
LEAST_WORKERS = 4
"""Number of workers from which on a traffic matrix says more than the volumes by operation."""


def communication_volume_charts(frames: Mapping[str, pd.DataFrame]) -> Iterator[tuple[alt.LayerChart, pd.DataFrame]]:
    """Yields the chart of each split that communicates, all on one scale, and its data.

    Args:
        frames: split → as of ``analysis.communication.volume_frame``.
    """
    frames = {split: frame for split, frame in frames.items() if len(frame)}
    most = max((float(frame[["measured_mib", "expected_mib"]].max().max()) for frame in frames.values()), default=0.0)
    for split, frame in frames.items():
        yield communication_volume_chart(frame, f"What does {split} communicate per step?", most), frame


def communication_volume_chart(frame: pd.DataFrame, title: str, most_mebibytes: float | None = None) -> alt.LayerChart:
    """Draws a bar for the measured volume of each operation and a mark for the expected one.

    Args:
        frame: as of ``analysis.communication.volume_frame``.
        title: title of the chart.
        most_mebibytes: end of the axis, for several charts on one scale.
    """
    most = most_mebibytes or float(frame[["measured_mib", "expected_mib"]].max().max())
    unit, size = byte_unit(most * 2**20)
    scale = alt.Scale(domain=[0, most * 2**20 / size]) if most_mebibytes else alt.Scale()
    frame = frame.assign(measured=frame["measured_mib"] * 2**20 / size, expected=frame["expected_mib"] * 2**20 / size)
    order = list(frame["what"])
    y = alt.Y("what:N", title=None, sort=order, axis=alt.Axis(labelLimit=200))
    tooltip = [
        alt.Tooltip("what", title="operation"),
        "count",
        alt.Tooltip("expected_bytes", title="expected bytes"),
        alt.Tooltip("measured_bytes", title="measured bytes"),
        alt.Tooltip("is_bound", title="expected is an upper bound"),
    ]
    x = alt.X("measured:Q", title=f"{unit} per step, all workers", scale=scale)
    bars = alt.Chart(frame).mark_bar(color=COLOURS["communication"], height=12).encode(x=x, y=y, tooltip=tooltip)
    marks = alt.Chart(frame).mark_tick(thickness=3, size=22).encode(x="expected:Q", y=y, tooltip=tooltip)
    heading = alt.Title(title, subtitle="Bar: measured. Mark: expected.")
    chart = layered(bars, marks, title=heading, width=WIDTH - 120, height=30 * len(order))
    largest = frame.nlargest(1, "expected_mib").iloc[0]
    return described(chart, f"Largest: {largest['what']}, {in_bytes(largest['expected_mib'] * 2**20)} expected.")


def traffic_matrix_chart(frame: pd.DataFrame, num_workers: int, most_bytes: float | None = None) -> alt.FacetChart:
    """Draws the traffic matrix of a step, one heat map per axis.

    Args:
        most_bytes: end of the scale of colours, for several charts on one scale.
        frame: as of ``analysis.traffic_matrix.traffic_matrix``.
        num_workers: number of workers of the run.
    """
    cell = CELL if num_workers <= MOST_LARGE else SMALL_CELL
    workers, axes = list(range(num_workers)), list(dict.fromkeys(frame["axis"]))
    pairs = frame.groupby(["axis", "from", "to"], as_index=False).agg(
        bytes=("bytes", "sum"), attribution=("attribution", lambda names: "; ".join(sorted(set(names))))
    )
    most = most_bytes or float(pairs["bytes"].max())
    unit, size = byte_unit(most)
    pairs["size"] = pairs["bytes"] / size
    base = alt.Chart(pairs).encode(
        x=alt.X("to:O", title="to worker", scale=alt.Scale(domain=workers), axis=alt.Axis(orient="top", labelAngle=0)),
        y=alt.Y("from:O", title="from worker", scale=alt.Scale(domain=workers)),
        tooltip=["axis", "from", "to", alt.Tooltip("bytes", title="bytes per step", format=",.0f"), "attribution"],
    )
    shade = alt.Scale(domain=[0, most / size], range=["#FFFFFF", COLOURS["communication"]], interpolate="rgb")
    cells = base.mark_rect(stroke="#C9C9C9").encode(
        color=alt.Color("size:Q", scale=shade, legend=alt.Legend(title=unit, orient="right", gradientLength=cell * num_workers))
    )
    numbers = base.mark_text(fontSize=11, color="#000000").encode(text=alt.Text("size:Q", format=".2~f"))
    question = ["How much do pairs of workers", "communicate per step?"]
    note = [
        f"{unit}. Sends: measured.",
        "Collectives: ring formula, to the next rank",
        "of the group (all-to-all: evenly to all).",
    ]
    chart = (
        alt.layer(cells, numbers, data=pairs)
        .properties(width=cell * num_workers, height=cell * num_workers)
        .facet(column=alt.Column("axis:N", sort=axes, header=alt.Header(title=None, labelExpr="datum.value + ' axis'")))
        .properties(title=alt.Title(question, subtitle=note))
    )
    largest = pairs.nlargest(1, "bytes").iloc[0]
    fact = f"Most: {in_bytes(largest['bytes'])} from worker {largest['from']} to worker {largest['to']} along {largest['axis']}."
    return described(chart, fact)
