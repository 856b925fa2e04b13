"""Lists the charts of a comparison, which pages, notebooks and reports draw. A new chart is added here only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd

from workbench.analysis.comparison import pareto, peaks, step_parts
from workbench.analysis.losses import losses
from workbench.analysis.scaling import scaling
from workbench.analysis.winners import in_table_order, step_times
from workbench.charts.loss import losses_charts
from workbench.charts.memory import memory_at_peak_chart, memory_of_runs_chart
from workbench.charts.pareto import pareto_chart
from workbench.charts.scaling import scaling_charts
from workbench.charts.step_parts import step_parts_chart
from workbench.charts.step_time import step_time_chart
from workbench.store.directory import StoredRun

Row = dict[str, Any]
Finished = Sequence[tuple[StoredRun, Row]]


@dataclass(frozen=True)
class ComparisonChart:
    """One chart, or several from one frame."""

    name: str
    """Name of the frame in ``CompareView.data`` and of the file offered by the page."""

    frame: Callable[[Finished], pd.DataFrame]
    """Returns the frame of finished runs and their rows, whose ``split`` names the run; empty if there is nothing to draw."""

    charts: Callable[[pd.DataFrame], Sequence[alt.Chart | alt.LayerChart]]
    """Returns the charts of the frame."""

    unfolded: tuple[str, Callable[[pd.DataFrame], alt.Chart | alt.LayerChart]] | None = None
    """Heading and chart of the details, which a page shows on request."""


def _step_times(finished: Finished) -> pd.DataFrame:
    frame = step_times([row for _, row in finished])
    return frame if len(frame) > 1 else frame.head(0)  # one run alone is not compared


def _step_parts(finished: Finished) -> pd.DataFrame:
    return step_parts([row for _, row in finished if row["compute_s"] is not None])


def _scaling(finished: Finished) -> pd.DataFrame:
    frame = scaling([row for _, row in finished])
    return frame if (frame["workers"] > 1).sum() > 1 else frame.head(0)  # one split alone is not compared


def _pareto(finished: Finished) -> pd.DataFrame:
    frame = pareto([row for _, row in finished])
    return frame if len(frame) > 1 else frame.head(0)  # one point is not a choice


def _losses(finished: Finished) -> pd.DataFrame:
    trained = [(run, row) for run, row in finished if row["final_loss"] is not None]
    return losses([run for run, _ in trained], [row for _, row in trained]) if trained else pd.DataFrame()


def _memory(finished: Finished) -> pd.DataFrame:
    runs = {row["split"]: run for run, row in finished}
    labels = [row["split"] for row in in_table_order([row for _, row in finished])]
    return peaks([runs[label] for label in labels], labels) if finished else pd.DataFrame()


CHARTS = (
    ComparisonChart("step_time", _step_times, lambda frame: [step_time_chart(frame)]),
    ComparisonChart("step_parts", _step_parts, lambda frame: [step_parts_chart(frame)]),
    ComparisonChart("scaling", _scaling, scaling_charts),
    ComparisonChart("pareto", _pareto, lambda frame: [pareto_chart(frame)]),
    ComparisonChart("losses", _losses, losses_charts),
    ComparisonChart(
        "memory", _memory, lambda frame: [memory_of_runs_chart(frame)], unfolded=("Memory of each worker", memory_at_peak_chart)
    ),
)
