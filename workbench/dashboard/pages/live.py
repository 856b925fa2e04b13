"""The page Live: the queue and the watched run. What is redrawn every second is a fragment; runs do not need the page."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
import streamlit as st

from workbench.analysis.formatting import duration
from workbench.analysis.latest import alike_to_newest, one_of_each_split
from workbench.analysis.progress import Follower
from workbench.api.store import RUN_ID, TERMINAL, Run, RunRecord, home, open_exact
from workbench.charts.loss import loss_chart
from workbench.dashboard.cache import queue, runs_frame
from workbench.dashboard.components.alerts import alert
from workbench.dashboard.components.choose_runs import compare_these
from workbench.dashboard.components.failure import failure_card
from workbench.dashboard.components.navigate import go
from workbench.dashboard.components.progress import bar
from workbench.dashboard.components.runs_table import runs_table
from workbench.errors import UsageError
from workbench.messages import counted

REFRESH_S = 1.0
NUM_ENDED = 8


def main() -> None:
    """Draws the page."""
    st.title("Live")
    st.caption("Runs are separate processes: they continue when this page is closed or the server stops.")
    _refresh()


@st.fragment(run_every=REFRESH_S)
def _refresh() -> None:
    store = home()
    active = queue().active()
    frame = _ended_runs(store, [run.id for run in active])
    watched = _watched(active, frame)
    if watched is None:
        st.info("There are no runs yet.")
        if st.button("Configure a run", type="primary"):
            go("configure")
        return
    _run(watched)
    _queue(active, watched)
    _ended(frame)


def _watched(active: list[Run], ended: pd.DataFrame) -> Run | None:
    """Returns the run of the address, else the running one, else the first of the queue, else the last that ended."""
    if named := st.query_params.get("run"):
        try:
            return open_exact(named)
        except UsageError as error:
            alert("warning", "Run not found", str(error))
    running = [run for run in active if run.state in ("starting", "running")]
    if running or active:
        return (running or active)[0]
    return None if ended.empty else open_exact(str(ended["run_id"].iloc[0]))


def _ended_runs(store: Path, active: list[str]) -> pd.DataFrame:
    """Returns the last runs that ended; read again only if a run was added, was removed or ended, or one of these changed."""
    cached = st.session_state.get("ended")
    if cached is None or cached[0] != _state(store, active, cached[1]):
        frame = runs_frame()
        frame = frame[frame["state"].isin(TERMINAL)].sort_values("created_at", ascending=False).head(NUM_ENDED)
        cached = st.session_state["ended"] = (_state(store, active, frame), frame)
    return cached[1]


def _state(store: Path, active: list[str], ended: pd.DataFrame) -> tuple[Path, list[str], list[int]]:
    """Returns what determines whether ended runs are read again. The directory of a run changes with every file created
    or replaced in it."""
    directories = [store / "runs", *(store / "runs" / str(run_id) for run_id in ended["run_id"])]
    return store, active, [path.stat().st_mtime_ns if path.exists() else 0 for path in directories]


def _run(run: Run) -> None:
    """Draws the watched run."""
    follower: Follower = st.session_state.get("follower") or Follower(run)
    if follower.run.path != run.path:
        follower = Follower(run)
    st.session_state["follower"] = follower
    follower.read_new()
    record, state = run.record, run.state
    with st.container(border=True):
        head, button = st.columns([4, 1], vertical_alignment="center")
        with head:
            st.subheader(_title(run), anchor=False)
            st.text("  ·  ".join(_facts(record, run)))
        with button:
            if not state.is_terminal and st.button("Cancel", key=f"cancel {run.id}", icon=":material/stop:", width="stretch"):
                run.cancel()
                st.toast("Cancelling: the workers are being stopped.")
        bar(follower, state, run.message)
        failure_card(run)
        _figures(follower)


def _title(run: Run) -> str:
    """Returns the split of a run; its id if the split of an imported record could be Markdown."""
    split = run.record.split
    return split if RUN_ID.fullmatch(split) else run.id


def _facts(record: RunRecord, run: Run) -> list[str]:
    name = run.labels.name or record.name
    workers = f"{counted(record.num_workers, 'worker')} on {record.device}"
    facts = [str(name)] if name else []
    return [*facts, f"{record.model} on {record.dataset}", workers, run.id]


def _figures(follower: Follower) -> None:
    """Draws the loss, and one row per worker."""
    if not any(follower.events.values()):
        return
    left, right = st.columns(2)
    with left:
        if len(follower.losses) > 1:
            st.altair_chart(loss_chart(pd.DataFrame(follower.losses)), key="loss")
        elif not follower.run.directory.status().state.is_terminal:
            st.caption("The loss appears after the first steps.")
    with right:
        st.caption("Workers")
        st.dataframe(
            pd.DataFrame(follower.workers()),
            hide_index=True,
            key="workers",
            placeholder="–",
            column_config={
                "step_ms": st.column_config.NumberColumn("step (ms)", format="%.1f", help="Mean over the last ten steps."),
                "samples_per_s": st.column_config.NumberColumn(
                    "samples/s", format="%.0f", help="Samples of this worker's part of the batch per second."
                ),
                "memory_mib": st.column_config.NumberColumn(
                    "memory (MiB)", format="%.0f", help="Current memory of the process, without libraries shared between workers."
                ),
            },
        )


def _queue(active: list[Run], watched: Run) -> None:
    """Draws the other runs that have not ended, in their order."""
    others = [run for run in active if run.id != watched.id]
    if not others:
        return
    st.subheader("Queue", anchor=False)
    for position, run in enumerate(others, start=1):
        with st.container(horizontal=True, vertical_alignment="center"):
            age = duration(max(0.0, time.time() - run.record.created_at))
            st.text(f"{position}.  {run.record.split}  ·  {run.state}, submitted {age} ago  ·  {run.message or run.id}")
            if st.button("Cancel", key=f"cancel {run.id}"):
                run.cancel()
                st.toast("Cancelling.")


def _ended(ended: pd.DataFrame) -> None:
    if not ended.empty:
        st.subheader("Recent runs", anchor=False)
        runs_table(ended, key="ended")
        comparable = ended[ended["run_id"].isin(one_of_each_split(alike_to_newest(ended)))]
        compare_these(comparable, "Compare these runs", key="compare ended")
