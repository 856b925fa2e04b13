"""What the page Compare shows of runs, computed once per state of the runs: a click on the page computes nothing again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import streamlit as st

from workbench.analysis import noise
from workbench.analysis.communication import volume_frame
from workbench.analysis.comparison import labelled, spec_differences
from workbench.analysis.findings import findings_on
from workbench.analysis.limits import limits_of
from workbench.analysis.winners import Winner, step_times, winners
from workbench.analysis.work import different_work
from workbench.api.store import Run
from workbench.charts.communication import communication_volume_charts
from workbench.charts.comparison import CHARTS
from workbench.charts.step_time import step_time_chart
from workbench.dashboard.cache import Changes, changes, changes_with_baselines


@dataclass(frozen=True)
class Figure:
    """A chart with its data and the name of its files."""

    chart: Any
    frame: pd.DataFrame
    name: str
    unfolded: tuple[str, Callable[[pd.DataFrame], Any]] | None = None
    """As of ``ComparisonChart``."""


@dataclass(frozen=True)
class Comparison:
    """Runs beside each other; all but ``rows`` and ``differences`` is of those that have figures."""

    rows: Sequence[dict[str, Any]]
    """Rows of all runs, with unique labels."""

    work: str
    """As of ``work.different_work``."""

    winners: Sequence[Winner]
    step_time: Figure
    findings: Sequence[str]
    differences: pd.DataFrame
    """As of ``comparison.spec_differences``."""

    charts: Sequence[Sequence[Figure]]
    """The charts below the table; the parts of one in one sequence."""

    communication: Sequence[Figure]


def compared(runs: Sequence[Run]) -> Comparison | None:
    """Returns the comparison of runs of which at least one has figures; None if none has."""
    return _compared(changes_with_baselines(runs), runs)


def measured(run: Run, alike: Sequence[Run]) -> noise.Measured:
    """Returns ``noise.measured``."""
    return _measured(changes([run, *alike]), run, alike)


def rows_of(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Returns the rows of runs, with unique labels."""
    return labelled([run.row() for run in runs], {run.id: run.record.threads_per_worker for run in runs})


@st.cache_resource(max_entries=16, show_spinner=False)
def _compared(changes: Changes, _runs: Sequence[Run]) -> Comparison | None:
    rows = rows_of(_runs)
    finished = [(run, row) for run, row in zip(_runs, rows, strict=True) if row["step_time_s"] is not None]
    if not finished:
        return None
    runs, of_finished = [run for run, _ in finished], [row for _, row in finished]
    work, times = different_work(runs), step_times(of_finished)
    limits = limits_of(runs)
    return Comparison(
        rows,
        work,
        winners(of_finished, {run_id: limit.kind for run_id, limit in limits.items()}, work),
        Figure(step_time_chart(times), times, "step_time"),
        findings_on(runs, of_finished, work, limits),
        spec_differences(_runs, [row["split"] for row in rows]),
        list(_charts(finished)),
        list(_communication(finished)),
    )


def _charts(finished: Sequence[tuple[Run, dict[str, Any]]]) -> Any:
    for chart in CHARTS:
        if chart.name != "step_time" and len(frame := chart.frame(finished)):
            *others, last = chart.charts(frame)
            names = [chart.name, *(f"{chart.name}-{part}" for part in range(2, len(others) + 2))]
            drawn = [Figure(one, frame, name) for one, name in zip(others, names, strict=False)]
            yield [*drawn, Figure(last, frame, names[-1], chart.unfolded)]


def _communication(finished: Sequence[tuple[Run, dict[str, Any]]]) -> Any:
    frames = {row["split"]: volume_frame(run).assign(split=row["split"]) for run, row in finished}
    for number, (chart, frame) in enumerate(communication_volume_charts(frames)):
        yield Figure(chart, frame, f"communication {number}")


@st.cache_resource(max_entries=256, show_spinner=False)
def _measured(changes: Changes, _run: Run, _alike: Sequence[Run]) -> noise.Measured:
    return noise.measured(_run, _alike)
