"""The timeline of the workers in a trace step, with the ideal of the schedule on the same axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from workbench.analysis import trace
from workbench.analysis.bubble import ideal_timeline
from workbench.analysis.step_lanes import MOST_EVENTS, MOST_REPLAYED
from workbench.api.store import Run
from workbench.charts.theme import AnyChart
from workbench.charts.timeline import timeline_chart
from workbench.charts.timeline_view import JAVASCRIPT, STYLES
from workbench.dashboard.components.alerts import alert
from workbench.dashboard.components.chart import cornered, menu
from workbench.dashboard.traces import lanes_of, timeline_of


def lanes(run: Run, step: int, ranks: Sequence[int] = ()) -> None:
    """Draws the lanes of these workers (all, if empty) in a trace step, a sentence above them and a table below."""
    timeline = trace.of_workers(timeline_of(run, step), ranks)
    if len(timeline) > MOST_EVENTS:
        alert(
            "warning",
            f"{len(timeline):,} events in this step, but at most {MOST_EVENTS:,} are shown; select fewer workers",
        )
        return
    shown, packed = lanes_of(run, step, tuple(ranks))
    st.markdown(shown.sentence)
    table, start_s = shown.table(), trace.span_s(timeline_of(run, step))[0]

    def chart() -> AnyChart:
        ideal = ideal_timeline(run)
        ideal = ideal[ideal["worker"].isin([str(rank) for rank in ranks])] if ranks else ideal
        return timeline_chart(trace.intervals(timeline, start_s), shown.title, ideal if len(ideal) else None)

    with cornered("timeline"):
        _component()(key="timeline", data=packed)
        menu(chart if len(timeline) <= MOST_REPLAYED else None, shown.measured.frame, "timeline", shown.title)
    for sentence in shown.why_not_ideal:
        st.text(sentence, width="stretch")
    with st.expander("Table of workers"):
        st.table(_percentages(table))


def _percentages(table: pd.DataFrame) -> pd.DataFrame:
    columns = ["busy", "communication", "idle"]
    return table.assign(**{c: [f"{share:.1%}" for share in table[c]] for c in columns}).set_index("worker")


def _component() -> Any:
    """Registers the component, which Streamlit keeps by its name."""
    return st.components.v2.component("workbench-timeline", js=JAVASCRIPT, css=STYLES)
