"""One trace step: a part of it shows every interval, and the most typical step is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.helpers.recorded import NUM_MICROBATCHES, PAYLOAD_BYTES, pipeline_run
from workbench.analysis import trace
from workbench.analysis.communication import by_operation
from workbench.analysis.memory import largest_at_peak
from workbench.analysis.trace import timeline
from workbench.store.tables import write_table


def test_a_short_step_is_shown_as_it_was(tmp_path: Path) -> None:
    run = pipeline_run(tmp_path)
    assert trace.steps(run) == [3, 4]
    found = trace.intervals(trace.timeline_of(run, 4), 4.01)
    order = ["worker", "begin_ms", "kind"]
    pd.testing.assert_frame_equal(
        found.sort_values(order, ignore_index=True), timeline(run).sort_values(order, ignore_index=True), check_like=True
    )


def test_a_part_has_all_that_lies_in_it_cut_to_it_and_nothing_else(tmp_path: Path) -> None:
    table = trace.of_workers(trace.timeline_of(pipeline_run(tmp_path), 4), [1])
    found = trace.intervals(table, 4.0, (130.0, 195.0))
    assert set(found["worker"]) == {"1"}
    assert found["begin_ms"].min() == pytest.approx(130.0), "a forward was under way"
    assert found["end_ms"].max() == pytest.approx(195.0), "communication went on"
    assert found["kind"].tolist() == ["forward", "idle", "communication"]
    assert (found["end_ms"] > found["begin_ms"]).all()


def test_the_most_typical_trace_step_is_the_one_nearest_to_the_median_of_the_timed_steps(tmp_path: Path) -> None:
    run = pipeline_run(tmp_path)
    for rank, factor in enumerate((1.0, 0.5)):  # the slower worker counts
        durations = {1: 0.10, 2: 0.14, 3: 0.30, 4: 0.13, 5: 0.9}
        kinds = {1: "timed", 2: "timed", 3: "trace", 4: "trace", 5: "memory"}
        rows = [
            {"rank": rank, "step": s, "kind": kinds[s], "start_s": 0.0, "duration_s": d * factor} for s, d in durations.items()
        ]
        write_table(run.table_path("steps", rank), "steps", rows)
    assert trace.typical_step(run) == 4
    for rank in range(2):
        rows = [
            {"rank": rank, "step": s, "kind": "trace", "start_s": 0.0, "duration_s": d} for s, d in ((3, 0.2), (4, 0.2), (5, 9.0))
        ]
        write_table(run.table_path("steps", rank), "steps", rows)
    assert trace.typical_step(run) == 3, "without timed steps, the median of the trace steps"
    assert [trace.step_label(23, 0.1523), trace.step_label(3, 2.5)] == ["23 · 152 ms", "3 · 2.50 s"]


def test_a_step_spans_all_workers_as_the_axis_of_the_timeline_does(tmp_path: Path) -> None:
    run = pipeline_run(tmp_path)
    rows = [
        {"rank": rank, "step": 4, "kind": "forward", "start_s": 4.0 + rank, "end_s": 4.5 + rank} for rank in range(2)
    ]  # the second worker begins a second later
    for row in rows:
        write_table(run.table_path("timeline", row["rank"]), "timeline", [row])
    assert trace.spans_s(run) == {4: pytest.approx(1.5)}
    begin, end = trace.span_s(trace.timeline_of(run, 4))
    assert end - begin == trace.spans_s(run)[4]


def test_operations_are_listed_as_they_began_and_counted(tmp_path: Path) -> None:
    run = pipeline_run(tmp_path)
    of_step = trace.communication_of(run, 3)
    rows, count = trace.operations_of(of_step, 3.0, names=["send", "recv"], most=5)
    assert count == 2 * NUM_MICROBATCHES
    assert len(rows) == 5
    assert list(rows["begin_ms"]) == sorted(rows["begin_ms"])
    assert rows["begin_ms"].iloc[0] == pytest.approx(50.0)
    assert trace.operations_of(of_step, 3.0, axes=["data"])[1] == 6
    assert trace.span_s(trace.timeline_of(run, 3)) == pytest.approx((3.01, 3.88))


def test_sums_by_operation_are_those_of_the_rows(tmp_path: Path) -> None:
    frame = by_operation(trace.communication_of(pipeline_run(tmp_path), 3)).set_index("operation")
    figures: dict[str, Any] = frame.loc["send"].to_dict()
    assert (figures["count"], figures["payload_bytes"]) == (NUM_MICROBATCHES, NUM_MICROBATCHES * PAYLOAD_BYTES)
    assert figures["duration_s"] == pytest.approx(0.06 * NUM_MICROBATCHES)
    assert figures["idle_s"] == pytest.approx(0.02 * NUM_MICROBATCHES)


def test_the_largest_tensors_of_a_worker_come_first(tmp_path: Path) -> None:
    run = pipeline_run(tmp_path)
    tensors = [("activations", 10), ("optimizer_state", 30), ("parameters", 20)]
    for rank in range(2):
        rows = [{"rank": rank, "step": 5, "category": c, "module": "head", "bytes": size + rank} for c, size in tensors]
        write_table(run.table_path("peak_tensors", rank), "peak_tensors", rows)
    found = largest_at_peak(run, 1)
    assert list(zip(found["category"], found["bytes"], strict=True)) == [
        ("optimizer state", 31),
        ("parameters", 21),
        ("activations", 11),
    ]
