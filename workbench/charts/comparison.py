"""Lists the charts of a comparison, which pages, notebooks and reports draw, and draws the first of them. A new chart is added
here only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd

from workbench.analysis.comparison import PARTS, losses, pareto, peaks, step_parts
from workbench.analysis.scaling import scaling
from workbench.analysis.winners import step_times
from workbench.charts.loss import losses_chart
from workbench.charts.memory import memory_at_peak_chart
from workbench.charts.pareto import pareto_chart
from workbench.charts.scaling import scaling_charts
from workbench.charts.step_time import step_time_chart
from workbench.charts.theme import WIDTH, colour, layered
from workbench.store.directory import StoredRun

Row = dict[str, Any]
Finished = Sequence[tuple[StoredRun, Row]]


@dataclass(frozen=True)
class ComparisonChart:
    """One chart, or several from one frame."""

    name: str
    """Name of the frame in ``CompareView.data`` and of the file offered by the page."""

    description: str
    """Alternative text of the chart."""

    frame: Callable[[Finished], pd.DataFrame]
    """Returns the frame of finished runs and their rows, whose ``split`` names the run; empty if there is nothing to draw."""

    charts: Callable[[pd.DataFrame, Sequence[str]], Sequence[alt.Chart | alt.LayerChart]]
    """Returns the charts of the frame; the labels of all runs, in order, determine the colours."""


def _step_times(finished: Finished) -> pd.DataFrame:
    frame = step_times([row for _, row in finished])
    return frame if len(frame) > 1 else frame.head(0)  # one run alone is not compared


def _step_parts(finished: Finished) -> pd.DataFrame:
    return step_parts([row for _, row in finished if row["compute_s"] is not None])


def _scaling(finished: Finished) -> pd.DataFrame:
    frame = scaling([row for _, row in finished])
    return frame if frame["workers"].nunique() > 2 else frame.head(0)  # two points are not a curve


def _pareto(finished: Finished) -> pd.DataFrame:
    frame = pareto([row for _, row in finished])
    return frame if len(frame) > 1 else frame.head(0)  # one point is not a choice


def _losses(finished: Finished) -> pd.DataFrame:
    trained = [(run, row) for run, row in finished if row["final_loss"] is not None]
    return losses([run for run, _ in trained], [row for _, row in trained]) if trained else pd.DataFrame()


def _memory(finished: Finished) -> pd.DataFrame:
    return peaks([run for run, _ in finished], [row["split"] for _, row in finished]) if finished else pd.DataFrame()


def step_parts_chart(frame: pd.DataFrame) -> alt.LayerChart:
    """Draws the breakdown of the step time, one bar per split and a tick at the median of the timed steps, shortest first; data
    of ``comparison.step_parts``."""
    order = list(dict.fromkeys(frame.sort_values("step_ms", kind="stable")["split"]))
    y = alt.Y("split:N", title=None, sort=order, axis=alt.Axis(labelLimit=220))
    bars = (
        alt.Chart(frame)
        .transform_calculate(order=f"indexof({list(PARTS)}, datum.part)")
        .mark_bar()
        .encode(
            x=alt.X("milliseconds:Q", title="time (ms)"),
            y=y,
            color=colour("part", PARTS),
            order="order:Q",
            tooltip=["split", "part", alt.Tooltip("milliseconds", title="ms", format=".2f")],
        )
    )
    medians = (
        alt.Chart(frame.drop_duplicates("split"))
        .mark_tick(thickness=3, size=18)
        .encode(x=alt.X("step_ms:Q"), y=y, tooltip=["split", alt.Tooltip("step_ms", title="median (ms)", format=".1f")])
    )
    title = alt.Title(
        "Where does the time of a step go?",
        subtitle="Bars: trace steps, mean over workers. Tick: median of the timed steps, as in the table.",
    )
    return layered(bars, medians, title=title, width=WIDTH, height=26 * len(order))


CHARTS = (
    ComparisonChart(
        "step_time", "Step time of each run, with its spread", _step_times, lambda frame, labels: [step_time_chart(frame, labels)]
    ),
    ComparisonChart(
        "step_parts", "Step time breakdown of each run", _step_parts, lambda frame, labels: [step_parts_chart(frame)]
    ),
    ComparisonChart("scaling", "Speed-up and efficiency against the number of workers", _scaling, scaling_charts),
    ComparisonChart(
        "pareto", "Step time against peak memory of each run", _pareto, lambda frame, labels: [pareto_chart(frame, labels)]
    ),
    ComparisonChart("losses", "Loss by step of each run", _losses, lambda frame, labels: [losses_chart(frame, labels)]),
    ComparisonChart(
        "memory",
        "Memory of each worker at its peak, by category",
        _memory,
        lambda frame, labels: [memory_at_peak_chart(frame, title="What occupies memory at the peak of each worker?")],
    ),
)
