"""Lanes of a trace step: pieces that do not overlap, with the operation behind each, named by the position in the mesh."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from tests.helpers.recorded import pipeline_run
from workbench.analysis import lanes, trace
from workbench.analysis.step_lanes import step_lanes
from workbench.plan.intervals import Interval, innermost
from workbench.store.tables import schema


def timeline(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist([{"rank": 0, "step": 3, "name": "", **row} for row in rows], schema=schema("timeline"))


def communication(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist([{"rank": 0, "step": 3, **row} for row in rows], schema=schema("communication"))


def event(kind: str, start_s: float, end_s: float, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "start_s": start_s, "end_s": end_s, **more}


def pieces(found: lanes.Lanes) -> list[tuple[str, float, float]]:
    rows = found.frame()
    return [(row.kind, round(row.begin_ms, 6), round(row.end_ms, 6)) for row in rows.itertuples()]


def test_a_wait_divides_the_pass_around_it() -> None:
    found = lanes.measured_lanes(
        timeline(event("forward", 1.0, 1.1), event("idle", 1.02, 1.04), event("communication", 1.04, 1.05)), communication(), 1.0
    )
    expected = [("forward", 0, 20), ("idle", 20, 40), ("communication", 40, 50), ("forward", 50, 100)]
    assert pieces(found) == expected
    (lane,) = found.lanes
    assert list(lane.event_begin_ms[[0, 3]]) == pytest.approx([0, 0]), "both pieces are of the same event"
    assert list(lane.event_end_ms[[0, 3]]) == pytest.approx([100, 100])


def test_pieces_are_those_of_the_step_breakdown(tmp_path: Path) -> None:
    """Random passes with waits inside and between them: the same pieces as ``intervals.innermost`` gives one by one."""
    random = np.random.default_rng(5)
    rows, now = [], 0.0
    for kind in random.choice(["forward", "backward", "optimizer"], 50):
        begin, length = now + random.uniform(0, 0.1), random.uniform(0.1, 1.0)
        rows.append(event(str(kind), begin, begin + length))
        for part in range(int(random.integers(0, 4))):
            wait = begin + length * (part + 0.2) / 4
            rows += [event("idle", wait, wait + length / 20), event("communication", wait + length / 20, wait + length / 12)]
        now = begin + length
    expected = innermost(Interval(row["start_s"], row["end_s"], row["kind"]) for row in rows)
    found = lanes.measured_lanes(timeline(*rows), communication(), 0.0)
    assert pieces(found) == [(piece.what, round(piece.start * 1e3, 6), round(piece.end * 1e3, 6)) for piece in expected]


def test_a_wait_says_how_many_bytes_it_waits_for_and_along_which_axis() -> None:
    operations = communication(
        {"start_s": 1.0, "end_s": 1.5, "axis": "data", "phase": "backward", "payload_bytes": 100},
        {"start_s": 1.1, "end_s": 1.7, "axis": "tensor", "phase": "forward", "payload_bytes": 200, "peer": 1},
    )
    found = lanes.measured_lanes(
        timeline(
            event("communication", 1.0, 1.01, name="all_reduce"),  # the first is issued,
            event("communication", 1.1, 1.11, name="send"),  # then the second;
            event("idle", 1.3, 1.4, name="all_reduce"),  # the first is waited for in two parts,
            event("communication", 1.4, 1.5, name="all_reduce"),
            event("idle", 1.6, 1.7, name="send"),  # and the second in one
            event("optimizer", 1.8, 1.9, name="step"),
        ),
        operations,
        1.0,
    )
    rows = found.frame().astype({"payload_bytes": float})
    assert list(rows["payload_bytes"].fillna(0)) == [100, 200, 100, 100, 200, 0]
    assert list(rows["axis"]) == ["data", "tensor", "data", "data", "tensor", ""]
    assert list(rows["operation"]) == ["all_reduce", "send", "all_reduce", "all_reduce", "send", "step"]


def test_shares_add_up_to_the_step_and_are_put_in_words() -> None:
    rows = [event("forward", 0.0, 0.6), event("idle", 0.1, 0.3), event("communication", 0.7, 0.8), event("optimizer", 0.9, 1.0)]
    found = lanes.measured_lanes(timeline(*rows), communication(), 0.0)
    (share,) = lanes.shares(found).to_dict("records")
    assert share == pytest.approx({"worker": 0, "busy": 0.5, "communication": 0.1, "idle": 0.2})
    assert lanes.sentence(lanes.shares(found)) == "Worker 0 computes 50 %, waits 20 %."
    many = pd.DataFrame({"worker": [0, 1, 2], "busy": [0.5, 0.9, 0.1], "communication": 0.0, "idle": [0.2, 0.1, 0.6]})
    assert lanes.sentence(many) == (
        "Workers compute 50 %, wait 30 % on average; most busy: worker 1 computes 90 %, waits 10 %;"
        " least busy: worker 2 computes 10 %, waits 60 %."
    )


def test_lanes_are_named_by_the_position_in_the_mesh() -> None:
    assert lanes.lane_names({"pipeline": 2, "data": 2}, True) == [
        "data 0 · stage 0", "data 1 · stage 0", "data 0 · stage 1", "data 1 · stage 1",
    ]  # fmt: skip
    assert lanes.lane_names({"pipeline": 2}, False) == ["pipeline 0", "pipeline 1"], "a worker of several stages is none of them"
    assert lanes.lane_names({}, True) == ["worker 0"]


def test_the_lanes_of_a_run_are_those_of_the_chosen_workers_on_the_clock_of_the_step(tmp_path: Path) -> None:
    run = pipeline_run(tmp_path)
    timeline, communication = trace.timeline_of(run, 4), trace.communication_of(run, 4)
    every, second = (step_lanes(run, 4, timeline, communication, ranks) for ranks in ((), [1]))
    assert [lane.worker for lane in every.measured.lanes] == [0, 1]
    assert [lane.worker for lane in second.measured.lanes] == [1]
    assert second.key != every.key
    assert second.measured.frame()["begin_ms"].min() == every.measured.frame()["begin_ms"].min()
    assert list(every.table()["position"]) == ["data 0", "data 1"]
    assert every.sentence.startswith("Worker 0 computes 71 %")
