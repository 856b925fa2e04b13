"""One trace step: what its outline shows is what most of each piece was, and a part shows every interval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from tests.helpers.recorded import NUM_MICROBATCHES, PAYLOAD_BYTES, pipeline_run
from workbench.analysis import trace
from workbench.analysis.communication import by_operation
from workbench.analysis.memory import largest_at_peak
from workbench.analysis.trace import timeline
from workbench.store.tables import schema, write_table


def spans(rows: list[tuple[int, str, float, float]]) -> pa.Table:
    """A timeline of one step from rank, kind, begin and end in seconds, in order of rank as tables are."""
    names = ("rank", "kind", "start_s", "end_s")
    found = [{"step": 3, **dict(zip(names, row, strict=True))} for row in sorted(rows)]
    return pa.Table.from_pylist(found, schema=schema("timeline"))


def test_a_short_step_is_shown_as_it_was(tmp_path: Path) -> None:
    run = pipeline_run(tmp_path)
    assert trace.steps(run) == [3, 4]
    found, is_outline = trace.lanes(trace.timeline_of(run, 4), 4.01)
    assert not is_outline
    order = ["worker", "begin_ms", "kind"]
    pd.testing.assert_frame_equal(
        found.sort_values(order, ignore_index=True), timeline(run).sort_values(order, ignore_index=True), check_like=True
    )


def test_a_part_has_all_that_lies_in_it_cut_to_it_and_nothing_else(tmp_path: Path) -> None:
    table = trace.of_workers(trace.timeline_of(pipeline_run(tmp_path), 4), [1])
    found, _ = trace.lanes(table, 4.0, (130.0, 195.0))
    assert set(found["worker"]) == {"1"}
    assert found["begin_ms"].min() == pytest.approx(130.0), "a forward was under way"
    assert found["end_ms"].max() == pytest.approx(195.0), "communication went on"
    assert found["kind"].tolist() == ["forward", "idle", "communication"]
    assert (found["end_ms"] > found["begin_ms"]).all()


def test_an_outline_of_a_long_step_has_few_bars_and_shows_what_most_of_each_piece_was() -> None:
    tick = 1e-5
    rows = [(0, "forward", 0.0, 1.0), (1, "forward", 0.0, 0.25), (1, "backward", 0.75, 1.0)]
    # In the second half of worker 0's forward it stands still for nine tenths of the time, in 5,000 short waits.
    rows += [(0, "communication", 0.5 + i * 10 * tick, 0.5 + (i * 10 + 9) * tick) for i in range(5000)]
    found, is_outline = trace.lanes(spans(rows), 0.0, most=200)
    assert is_outline
    assert len(found) <= 200
    bars = {(row.worker, row.kind, round(row.begin_ms), round(row.end_ms)) for row in found.itertuples()}
    expected = {
        ("0", "forward", 0, 500),
        ("0", "communication", 500, 1000),
        ("1", "forward", 0, 250),
        ("1", "backward", 750, 1000),
    }
    assert bars == expected


def test_an_outline_never_has_more_bars_than_allowed() -> None:
    kinds = ("forward", "backward", "optimizer", "idle")
    rows = [(rank, kinds[i % 4], i * 1e-3, (i + 1) * 1e-3) for rank in range(8) for i in range(2000)]
    found, is_outline = trace.lanes(spans(rows), 0.0, most=1000)
    assert is_outline
    assert len(found) <= 1000
    assert set(found["worker"]) == {str(rank) for rank in range(8)}


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
