"""The front page: what the workbench shows, the latest comparison and the latest runs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pandas as pd
import streamlit as st

from workbench.analysis.comparison import labelled
from workbench.analysis.findings import findings_on
from workbench.analysis.latest import comparable
from workbench.analysis.winners import step_times
from workbench.api.specs import RunSpec, four_strategies
from workbench.api.store import open_exact
from workbench.charts.step_time import step_time_chart
from workbench.dashboard.cache import runs_frame
from workbench.dashboard.components.alerts import alert
from workbench.dashboard.components.chart import figure
from workbench.dashboard.components.navigate import go, has
from workbench.dashboard.components.runs_table import runs_table
from workbench.dashboard.start import DEMONSTRATION, start
from workbench.dashboard.table import filtered

NUM_LATEST = 10
NUM_FINDINGS = 5
PICTURE = Path(__file__).parents[1] / "demonstration.svg"
"""Of recorded runs of the demonstration, made by ``docs/pictures.py``; the README shows it, too."""


def main() -> None:
    """Draws the page."""
    st.title("The workbench")
    st.write("**How should I split this model, and what will it cost me?** Run each split and compare the measurements.")
    frame = runs_frame()
    if frame.empty:
        _introduction()
        return
    _links()
    _comparison(frame)
    st.header("Latest runs", anchor=False)
    runs_table(filtered(frame).head(NUM_LATEST), key="latest")
    st.caption(f"{len(frame):,} runs in the store.")


def _introduction() -> None:
    text, picture = st.columns([3, 4], gap="large")
    with text:
        st.write(
            "The workbench runs a neural network on several workers, split by the batch (data), by layers, as a pipeline or by"
            " tensors. Each worker is a process of its own. Each run checks that the split computes what one worker computes, and"
            " measures step time, memory and communication volume, so that splits can be compared."
        )
        st.write(
            "The demonstration trains a small language model on text, first on one worker and then on two workers with each of"
            " four strategies. It takes about a minute on two cores and needs no network."
        )
        _demonstration("primary")
        _links()
    with picture:
        st.image(PICTURE, caption="From the demonstration: where the time of a step goes, and one step of the pipeline.")


def _links() -> None:
    """Draws the ways into the other pages."""
    with st.container(horizontal=True):
        for page, label, icon in (
            ("configure", "Configure a run", ":material/tune:"),
            ("live", "Live runs", ":material/monitor_heart:"),
            ("runs", "All runs", ":material/table_rows:"),
            ("learn", "Learn the strategies", ":material/school:"),
        ):
            if has(page) and st.button(label, icon=icon):
                go(page)
    st.caption(
        "Your own model or data: a plugin file, named by `WORKBENCH_PLUGINS` when the dashboard starts, appears in Configure;"
        " see docs/extending.md."
    )


def _demonstration(kind: Literal["primary", "secondary"]) -> None:
    if st.button("Run the demonstration", type=kind, icon=":material/play_arrow:"):
        with st.spinner("Starting…"):
            started = start(four_strategies(RunSpec()), DEMONSTRATION)
        if started.refused:
            alert("error", "Not started", *started.refused)
        else:
            go("live")


def _comparison(frame: pd.DataFrame) -> None:
    """Draws the latest comparison: step times and the first findings."""
    runs = [open_exact(run_id) for run_id in comparable(frame, open_exact)]
    if len(runs) < 2:
        _demonstration("secondary")
        return
    rows = labelled([run.row() for run in runs], {run.id: run.record.threads_per_worker for run in runs})
    st.header("Latest comparison", anchor=False)
    # As text: the record of an imported run may hold Markdown.
    st.text(f"{rows[-1]['model']} on {rows[-1]['dataset']}, {rows[-1]['mode']}, {len(runs)} runs")
    chart, sentences = st.columns([4, 3], gap="large")
    with chart:
        times = step_times(rows)
        figure(step_time_chart(times), times, "latest_step_time")
    with sentences:
        found = findings_on(runs, rows)[:NUM_FINDINGS]
        st.text("\n".join(f"• {sentence}" for sentence in found), width="stretch")
        if has("compare") and st.button("Compare these runs", type="primary", icon=":material/compare_arrows:"):
            go("compare", {"runs": ",".join(run.id for run in runs)})
    _demonstration("secondary")
