"""The page Trace: one step of one run, with the timeline of its workers, communication and memory."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import streamlit as st

from workbench.analysis import trace
from workbench.analysis.byte_units import byte_unit
from workbench.analysis.communication import by_operation
from workbench.analysis.memory import largest_at_peak, memory_at_peak, memory_budget_bytes, memory_over_time
from workbench.analysis.trust import reason
from workbench.api.store import Run, open_exact
from workbench.charts.communication import LEAST_WORKERS, traffic_matrix_chart
from workbench.charts.memory import memory_at_peak_chart, memory_over_time_chart
from workbench.charts.overlap import overlap_chart
from workbench.dashboard.components.chart import figure
from workbench.dashboard.components.choose_runs import choose_run
from workbench.dashboard.components.failure import failure_card
from workbench.dashboard.components.lanes import lanes
from workbench.dashboard.downloads import trace_of
from workbench.dashboard.traces import communication_of, steps_of, timeline_of

MOST_OPERATIONS = 1000
MOST_OVERLAPPED = 3000
"""Largest number of operations, and of other events, whose overlap is drawn."""


def main() -> None:
    """Draws the page."""
    st.title("Trace")
    run_id = choose_run()
    if run_id is None:
        return
    run = open_exact(run_id)
    failure_card(run)
    traced = steps_of(run)
    if traced is None:
        st.info(trace.untraced(run))
        return
    record = run.record
    left, right = st.columns(2)
    with left:
        step = st.segmented_control(
            "Trace step", list(traced.spans_s), default=traced.typical, required=True, key=f"step of {run_id}",
            format_func=lambda number: trace.step_label(number, traced.spans_s[number]),
            help="With the time from the begin of the first worker to the end of the last, as on the axis below. Initially the"
            " step whose duration is closest to the median of the timed steps.",
        )  # fmt: skip
    with right:
        workers = list(range(record.num_workers))
        ranks = st.multiselect("Workers", workers, placeholder="all", key=f"workers of {run_id}") if len(workers) > 1 else []
    chosen = int(step if step is not None else traced.typical)
    timeline = timeline_of(run, chosen)
    start_s = trace.span_s(timeline)[0]
    st.header(f"What does each worker do during step {chosen}?", anchor=False)
    if run.summary and (why := reason(record, run.summary)):
        st.caption(f"⚠ The times are not quiet: {why}.")
    lanes(run, chosen, ranks)
    of_step, communication = (trace.of_workers(table, ranks) for table in (timeline, communication_of(run, chosen)))
    if 0 < len(communication) <= MOST_OVERLAPPED >= len(of_step):
        frame = trace.overlap(of_step, communication, start_s)
        with st.expander("Overlap of communication and computing"):
            figure(overlap_chart(frame, "Is communication hidden behind computation?"), frame, "overlap")
    _communication(communication, start_s, len(workers))
    _memory(run, ranks or workers)
    st.header("Export", anchor=False)
    st.download_button(
        "Trace for Perfetto or chrome://tracing", lambda: trace_of(run), f"{run.id}.trace.json.gz", "application/gzip",
        icon=":material/download:", on_click="ignore", help="All trace steps of all workers. Open the file at ui.perfetto.dev.",
    )  # fmt: skip


def _communication(communication: pa.Table, start_s: float, num_workers: int) -> None:
    st.header("Communication", anchor=False)
    if not len(communication):
        st.caption("No communication: single worker.")
        return
    number = st.column_config.NumberColumn
    summary = by_operation(communication)
    unit, size = byte_unit(summary["payload_bytes"].max())
    st.dataframe(
        summary.assign(
            payload_bytes=summary["payload_bytes"] / size,
            **{c: summary[c] * 1e3 for c in ("duration_s", "exposed_communication_s", "idle_s")},
        ),
        hide_index=True,
        key="operations",
        column_config={
            "count": number("count", help="Number of operations, summed over workers: a collective counts once per member."),
            "payload_bytes": number(
                f"payload ({unit})", format="%.2f", help="Sum of the tensors' sizes over all counted operations."
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
    if num_workers >= LEAST_WORKERS:
        _traffic(trace.traffic_matrix_of_step(communication), num_workers)
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


def _traffic(matrix: pd.DataFrame, num_workers: int) -> None:
    """Draws the traffic matrix along each axis, on one scale."""
    most = float(matrix.groupby(["axis", "from", "to"])["bytes"].sum().max())
    with st.container(horizontal=True, gap="large"):
        for axis, part in matrix.groupby("axis"):
            with st.container(width="content"):
                figure(traffic_matrix_chart(part, num_workers, most), part, f"traffic matrix along {axis}")


def _memory(run: Run, ranks: list[int]) -> None:
    """Draws the memory of the memory steps, which are separate steps."""
    st.header("Memory", anchor=False)
    rank = ranks[0]
    if len(ranks) > 1:
        rank = st.segmented_control("Worker", ranks, default=ranks[0], required=True, key=f"memory of {run.id}") or ranks[0]
    frame = memory_over_time(run, int(rank))
    if frame.empty:
        st.caption("No memory step was recorded.")
        return
    figure(memory_over_time_chart(frame, f"What occupies memory on worker {rank}?"), frame, "memory")
    peak = memory_at_peak(run)
    figure(memory_at_peak_chart(peak, memory_budget_bytes(run)), peak, "peak")
    tensors = largest_at_peak(run, int(rank))
    if not tensors.empty:
        st.caption(f"Largest tensors on worker {rank} at its peak")
        columns = {"bytes": st.column_config.NumberColumn("bytes", format="localized")}
        st.dataframe(tensors, hide_index=True, key="tensors", column_config=columns)
