"""The front page: introduction, demonstration and latest runs."""

from __future__ import annotations

import streamlit as st

from workbench.api.specs import RunSpec, four_strategies
from workbench.dashboard.cache import runs_frame
from workbench.dashboard.components.alerts import alert
from workbench.dashboard.components.choose_runs import compare_these
from workbench.dashboard.components.navigate import go
from workbench.dashboard.components.runs_table import runs_table
from workbench.dashboard.start import start
from workbench.dashboard.table import filtered

NUM_LATEST = 10


def main() -> None:
    """Draws the page."""
    st.title("The workbench")
    st.write("**How should I split this model, and what will it cost me?** Run each split and compare the measurements.")
    frame = runs_frame()
    if frame.empty:
        _empty()
        return
    with st.container(horizontal=True):
        if st.button("Configure a run", type="primary", icon=":material/tune:"):
            go("configure")
        if st.button("Live runs", icon=":material/monitor_heart:"):
            go("live")
        if st.button("All runs", icon=":material/table_rows:"):
            go("runs")
    st.subheader("Latest runs")
    latest = filtered(frame).head(NUM_LATEST)
    runs_table(latest, key="latest")
    compare_these(latest, "Compare these runs", key="compare latest")
    st.caption(f"{len(frame):,} runs in the store.")


def _empty() -> None:
    st.write(
        "The workbench runs a neural network on several workers, split by the batch (data), by layers, as a pipeline or by"
        " tensors. Each worker is a process of its own. Each run checks that the split computes what one worker computes, and"
        " measures step time, memory and communication volume, so that splits can be compared."
    )
    st.write(
        "The demonstration trains a small language model on text, first on one worker and then on two workers with each of four"
        " strategies. It takes about a minute on two cores and needs no network."
    )
    if st.button("Run the demonstration", type="primary", icon=":material/play_arrow:"):
        with st.spinner("Starting…"):
            started = start(four_strategies(RunSpec()))
        if started.refused:
            alert("error", "Not started", *started.refused)
        else:
            go("live")
