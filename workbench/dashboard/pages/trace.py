"""The page Trace: one step of one run, with the timeline of its workers, communication and memory."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import streamlit as st

from workbench.analysis import trace
from workbench.analysis.bubble import ideal_timeline
from workbench.analysis.communication import by_operation
from workbench.analysis.memory import largest_at_peak, memory_at_peak, memory_over_time
from workbench.analysis.trace import overlap
from workbench.api.store import Run, open_exact
from workbench.charts.communication import traffic_matrix_chart
from workbench.charts.memory import memory_at_peak_chart, memory_over_time_chart
from workbench.charts.timeline import By, overlap_chart
from workbench.dashboard.components.chart import figure, lanes
from workbench.dashboard.components.choose_runs import choose_run
from workbench.dashboard.components.failure import failure_card
from workbench.dashboard.downloads import trace_of

MOST_OPERATIONS = 1000
MOST_REPLAYED = 20_000
"""Maximum number of intervals of a step for which the ideal schedule is computed, since it processes each of them."""
QUESTION = "What does each worker do during the step?"


def main() -> None:
    """Draws the page."""
    st.title("Trace")
    run_id = choose_run()
    if run_id is None:
        return
    run = open_exact(run_id)
    failure_card(run)
    steps = trace.steps(run)
    if not steps:
        st.info(trace.untraced(run))
        return
    record = run.record
    left, right = st.columns(2)
    with left:
        step = st.segmented_control("Trace step", steps, default=steps[-1], required=True, key=f"step of {run_id}")
    with right:
        workers = list(range(record.num_workers))
        ranks = st.multiselect("Workers", workers, placeholder="all", key=f"workers of {run_id}") if len(workers) > 1 else []
    chosen = int(step if step is not None else steps[-1])
    state = run.state
    timeline = _timeline_of(run, run.path, state, chosen)
    start_s, end_s = trace.span_s(timeline)
    of_step = trace.of_workers(timeline, ranks)
    _timeline(run, of_step, start_s, end_s)
    communication = trace.of_workers(_communication_of(run, run.path, state, chosen), ranks)  # while the chart is being sent
    if 0 < len(communication) <= trace.MAX_BARS >= len(of_step):
        frame = overlap(of_step, communication, start_s)
        with st.expander("Overlap of communication and computing"):
            figure(overlap_chart(frame, "Does communication overlap with computing?"), frame, "overlap")
    _communication(communication, start_s, len(workers))
    _memory(run, ranks or workers)
    st.subheader("Export", anchor=False)
    st.download_button(
        "Trace for Perfetto or chrome://tracing", lambda: trace_of(run), f"{run.id}.trace.json.gz", "application/gzip",
        icon=":material/download:", on_click="ignore", help="All trace steps of all workers. Open the file at ui.perfetto.dev.",
    )  # fmt: skip


@st.cache_resource(max_entries=2, show_spinner=False)
def _timeline_of(_run: Run, path: Path, state: str, step: int) -> pa.Table:
    """Returns the timeline of a step, read once per state of the run: after its end nothing changes."""
    return trace.timeline_of(_run, step)


@st.cache_resource(max_entries=2, show_spinner=False)
def _communication_of(_run: Run, path: Path, state: str, step: int) -> pa.Table:
    return trace.communication_of(_run, step)


def _timeline(run: Run, of_step: pa.Table, start_s: float, end_s: float) -> None:
    whole = (end_s - start_s) * 1e3
    part = None
    if len(of_step) > trace.MAX_BARS:
        part = st.slider("Part of the step (ms)", 0.0, whole, (0.0, whole), key=f"part of {run.id}")
    frame, is_outline = trace.lanes(of_step, start_s, part)
    ideal = ideal_timeline(run) if len(of_step) <= MOST_REPLAYED and part is None else frame[:0]
    lanes(frame, ideal, QUESTION, part, _coloured_by(frame, run.id))
    if is_outline:
        st.caption(
            f"Outline of {len(of_step):,} intervals: each piece shows the kind that takes most of it. Select a shorter part of"
            " the step to see every interval."
        )
    else:
        st.caption("Scroll to zoom, drag to pan. Numbers are microbatches.")
    if len(ideal):
        st.caption(
            "In the ideal timeline each action takes its mean measured time and starts as early as possible."
            " Communication takes no time."
        )


def _coloured_by(frame: pd.DataFrame, run_id: str) -> By:
    """Draws the choice of colours. Returns what they stand for; microbatch and stage are offered if there are several."""
    others: tuple[By, ...] = ("microbatch", "stage")
    offered: list[By] = ["kind", *(column for column in others if frame[column].nunique() > 1)]
    if len(offered) == 1:
        return "kind"
    return st.segmented_control("Color by", offered, default="kind", required=True, key=f"coloured by {run_id}") or "kind"


def _communication(communication: pa.Table, start_s: float, num_workers: int) -> None:
    st.subheader("Communication", anchor=False)
    if not len(communication):
        st.caption("No communication: single worker.")
        return
    number = st.column_config.NumberColumn
    summary = by_operation(communication)
    st.dataframe(
        summary.assign(
            payload_bytes=summary["payload_bytes"] / 2**20,
            **{c: summary[c] * 1e3 for c in ("duration_s", "exposed_communication_s", "idle_s")},
        ),
        hide_index=True,
        key="operations",
        column_config={
            "count": number("count", help="Number of operations, summed over workers: a collective counts once per member."),
            "payload_bytes": number(
                "payload (MiB)", format="%.3f", help="Sum of the tensors' sizes over all counted operations."
            ),
            "duration_s": number("duration (ms)", format="%.2f", help="Sum of the times from begin to end."),
            "exposed_communication_s": number(
                "exposed (ms)", format="%.2f", help="Time in which workers were blocked by communication."
            ),
            "idle_s": number(
                "idle (ms)", format="%.2f", help="Time spent waiting for a worker that had not yet begun the operation."
            ),
        },
    )
    matrix = trace.traffic_matrix_of_step(communication)
    with st.container(horizontal=True, gap="large"):
        for axis, part in matrix.groupby("axis"):
            with st.container(width="content"):
                figure(traffic_matrix_chart(part, num_workers), part, f"traffic matrix along {axis}")
    left, right = st.columns(2)
    with left:
        names = st.multiselect("Operation", sorted(summary["operation"].unique()), placeholder="any")
    with right:
        axes = st.multiselect("Axis", sorted(summary["axis"].unique()), placeholder="any")
    rows, count = trace.operations_of(communication, start_s, names, axes, MOST_OPERATIONS)
    st.caption(f"{count:,} operations" + (f", the first {MOST_OPERATIONS:,} are listed" if count > MOST_OPERATIONS else ""))
    st.dataframe(
        rows,
        hide_index=True,
        key="listed",
        placeholder="–",
        column_config={
            "rank": number("worker"),
            "index": number("index", help="Position among the operations of this worker in the step."),
            "payload_bytes": number("bytes", format="localized"),
            "begin_ms": number("begin (ms)", format="%.3f"),
            "duration_ms": number("duration (ms)", format="%.3f"),
            "exposed_ms": number("exposed (ms)", format="%.3f", help="Time in which the worker was blocked by it."),
            "idle_ms": number(
                "idle (ms)", format="%.3f", help="Time spent waiting for a worker that had not yet begun the operation."
            ),
        },
    )


def _memory(run: Run, ranks: list[int]) -> None:
    """Draws the memory of the memory steps, which are separate steps."""
    st.subheader("Memory", anchor=False)
    rank = ranks[0]
    if len(ranks) > 1:
        rank = st.segmented_control("Worker", ranks, default=ranks[0], required=True, key=f"memory of {run.id}") or ranks[0]
    frame = memory_over_time(run, int(rank))
    if frame.empty:
        st.caption("No memory step was recorded.")
        return
    figure(memory_over_time_chart(frame, f"What occupies memory on worker {rank}?"), frame, "memory")
    peak = memory_at_peak(run)
    figure(memory_at_peak_chart(peak), peak, "peak")
    tensors = largest_at_peak(run, int(rank))
    if not tensors.empty:
        st.caption(f"Largest tensors on worker {rank} at its peak")
        columns = {"bytes": st.column_config.NumberColumn("bytes", format="localized")}
        st.dataframe(tensors, hide_index=True, key="tensors", column_config=columns)
