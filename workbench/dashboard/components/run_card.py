"""The large card of one run: how far it is, why it failed, its curves, its workers and their logs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from workbench.analysis.formatting import run_name
from workbench.analysis.progress import Follower, thinned
from workbench.api.store import RUN_ID, Run, RunRecord
from workbench.charts.loss import loss_chart
from workbench.charts.progress import memory_chart, step_times_chart
from workbench.charts.theme import AnyChart
from workbench.dashboard.components.chart import live_figure
from workbench.dashboard.components.failure import failure_card
from workbench.dashboard.components.log import log
from workbench.dashboard.components.navigate import go, has
from workbench.dashboard.components.progress import bar
from workbench.messages import counted

_COLUMNS = {
    "step_ms": st.column_config.NumberColumn("step (ms)", format="%.1f", help="Mean over the last ten steps."),
    "samples_per_s": st.column_config.NumberColumn(
        "samples/s", format="%.0f", help="Samples of this worker's part of the batch per second."
    ),
    "memory_mib": st.column_config.NumberColumn(
        "memory (MiB)", format="%.0f", help="Current memory of the process, without libraries shared between workers."
    ),
}


def run_card(run: Run, follower: Follower, record: RunRecord) -> None:
    """Draws the card of a run; ``follower`` reads what is new."""
    follower.read_new()
    state = run.state
    with st.container(border=True):
        head, buttons = st.columns([4, 1], vertical_alignment="center")
        with head:
            st.subheader(title(record), anchor=False)
            st.text("  ·  ".join(_facts(record, run)))
        with buttons:
            if not state.is_terminal:
                cancel_button(run)
            elif has("run") and st.button("Open", key=f"open {run.id}", icon=":material/open_in_new:", width="stretch"):
                go("run", {"run": run.id})
        bar(follower, state, run.message)
        failure_card(run)
        if any(follower.events.values()):
            _curves(follower, is_live=not state.is_terminal)
        if state != "queued":
            log(run, record.num_workers)


def title(record: RunRecord) -> str:
    """Returns the name of a run by its split; its id if the split of an imported record could be Markdown."""
    return run_name(record) if RUN_ID.fullmatch(record.split) else record.run_id


def cancel_button(run: Run, key: str = "cancel") -> None:
    """Draws the button that cancels a run; ``key`` distinguishes it from others of the same run."""
    if st.button("Cancel", key=f"{key} {run.id}", icon=":material/stop:", width="stretch"):
        run.cancel()
        st.toast("Cancelling: the workers are being stopped.")


def _facts(record: RunRecord, run: Run) -> list[str]:
    name = run.labels.name or record.name
    workers = f"{counted(record.num_workers, 'worker')} on {record.device}"
    facts = [str(name)] if name else []
    return [*facts, f"{record.model} on {record.dataset}", workers, run.id]


def _curves(follower: Follower, is_live: bool) -> None:
    """Draws step times, loss and memory, and one row per worker."""
    rows = follower.workers()  # measures the memory
    times, losses = follower.step_times, follower.losses
    drawn: list[tuple[Callable[[pd.DataFrame], AnyChart], Sequence[dict[str, Any]]]] = []
    drawn += [(step_times_chart, thinned(times))] if len(times) > 1 else []
    drawn += [(loss_chart, thinned(losses))] if len(losses) > 1 else []
    drawn += [(memory_chart, list(follower.memory))] if len(follower.memory) > len(rows) else []
    if drawn:
        for column, (chart, points) in zip(st.columns(len(drawn)), drawn, strict=True):
            with column:
                live_figure(chart, pd.DataFrame(points), f"{chart.__name__} of {follower.run.id}", len(rows))
    elif is_live:
        st.caption("Waiting for the first steps…")
    st.dataframe(
        pd.DataFrame(rows), hide_index=True, key=f"workers of {follower.run.id}", placeholder="–", column_config=_COLUMNS
    )
