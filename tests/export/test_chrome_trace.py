"""The exported trace keeps to the format, and says what the tables say."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.recorded import NUM_MICROBATCHES, PAYLOAD_BYTES, TRACE_STEPS, pipeline_run
from tests.helpers.trace_format import mistakes
from workbench.export.chrome_trace import write_trace
from workbench.store.directory import RunDirectory

Document = dict[str, Any]
NANOSECOND = 1e-9


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return pipeline_run(tmp_path / "store")


def document_of(*runs: RunDirectory, to: Path) -> Document:
    return json.loads(write_trace(runs, to / "trace.json").read_text())


def assert_totals_are_those_of_the_table(document: Document, run: RunDirectory) -> None:
    """Count, bytes and duration of each operation; a time is written to the nanosecond, so each may be off by one."""
    table = run.table("communication").to_pandas()
    table["duration_s"] = table["end_s"] - table["start_s"]
    events = [event for event in document["traceEvents"] if event.get("cat") == "communication"]
    assert {event["name"] for event in events} == set(table["operation"])
    for operation, rows in table.groupby("operation"):
        own = [event for event in events if event["name"] == operation]
        assert len(own) == len(rows)
        assert sum(event["args"]["payload_bytes"] for event in own) == rows["payload_bytes"].sum()
        microseconds = sum(event.get("dur", 0) for event in own)
        assert abs(microseconds / 1e6 - rows["duration_s"].sum()) <= len(own) * NANOSECOND


def test_the_trace_keeps_to_the_format_and_its_totals_are_the_tables(run: RunDirectory, tmp_path: Path) -> None:
    document = document_of(run, to=tmp_path)
    assert mistakes(document) == []
    assert_totals_are_those_of_the_table(document, run)


def test_workers_and_their_threads_have_names(run: RunDirectory, tmp_path: Path) -> None:
    named = [event for event in document_of(run, to=tmp_path)["traceEvents"] if event["name"] in ("process_name", "thread_name")]
    names = {(event["pid"], event["args"]["name"]) for event in named}
    worker = ["steps", "compute", "communication", "communication 2", "waiting"]
    assert names == {
        *((pid, f"worker {rank} of dp2, run {run.id}") for rank, pid in enumerate((1, 2))),
        *((pid, thread) for pid in (1, 2) for thread in worker),
    }


def test_an_arrow_leads_from_each_send_to_its_receive(run: RunDirectory, tmp_path: Path) -> None:
    flows = [event for event in document_of(run, to=tmp_path)["traceEvents"] if event["ph"] in "sf"]
    assert [(e["ph"], e["pid"]) for e in flows] == [("s", 1), ("f", 2)] * (NUM_MICROBATCHES * len(TRACE_STEPS))
    assert flows[0]["ts"] == pytest.approx((TRACE_STEPS[0] + 0.1) * 1e6), "when the send began"


def test_events_say_what_the_tables_say_of_them(run: RunDirectory, tmp_path: Path) -> None:
    events = document_of(run, to=tmp_path)["traceEvents"]
    send = next(event for event in events if event["name"] == "send")
    wanted = {"payload_bytes": PAYLOAD_BYTES, "axis": "pipeline", "group": "pipe", "phase": "forward", "peer": 1}
    assert wanted.items() <= send["args"].items()
    forward = next(event for event in events if event["name"] == "forward 2" and event["pid"] == 2)
    assert {"stage": 1, "microbatch": 2, "step": 3}.items() <= forward["args"].items()
    assert forward["dur"] == pytest.approx(0.08e6)
    first = next(event for event in events if event["name"] == "warmup step")
    assert "loss" not in first["args"], "JSON has no NaN"


def test_memory_is_counted_by_category_and_a_peak_without_a_time_is_left_out(run: RunDirectory, tmp_path: Path) -> None:
    counters = [event for event in document_of(run, to=tmp_path)["traceEvents"] if event["ph"] == "C"]
    of_first = [(round(event["ts"]), event["args"]) for event in counters if event["pid"] == 1]
    assert of_first == [
        (5_100_000, {"parameters": 100, "activations": 0}),
        (5_200_000, {"parameters": 100, "activations": 50}),
    ]


def test_an_operation_without_an_end_of_waiting_ends_when_it_is_complete(run: RunDirectory, tmp_path: Path) -> None:
    """As on a GPU; where nothing at all is known of its end, it is an instant."""
    path = run.table_path("communication", 0)
    rows = pq.read_table(path).to_pylist()
    complete = [
        {**row, "end_s": None, "completed_s": row["start_s"] + 0.02 if row["operation"] == "send" else None} for row in rows
    ]
    pq.write_table(pa.Table.from_pylist(complete), path)
    document = document_of(run, to=tmp_path)
    assert mistakes(document) == []
    of_first = [event for event in document["traceEvents"] if event.get("cat") == "communication" and event["pid"] == 1]
    assert {(event["name"], event["ph"], round(event.get("dur", 0))) for event in of_first} == {
        ("send", "X", 20_000),
        ("all_reduce", "i", 0),
    }


def test_runs_side_by_side_share_no_process_and_no_thread(run: RunDirectory, tmp_path: Path) -> None:
    other = pipeline_run(tmp_path / "store", "20261124-100004-pp2-eeeeee")
    document = document_of(run, other, to=tmp_path)
    assert mistakes(document) == []
    threads = [event["tid"] for event in document["traceEvents"] if event["name"] == "thread_name"]
    assert len(set(threads)) == len(threads) == 2 * 2 * 5


def test_a_name_that_ends_in_gz_is_compressed(run: RunDirectory, tmp_path: Path) -> None:
    packed = write_trace([run], tmp_path / "trace.json.gz")
    assert json.loads(gzip.decompress(packed.read_bytes())) == document_of(run, to=tmp_path)


SPOIL: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "missing": lambda events: next(e for e in events if e["ph"] == "X").pop("dur"),
    "type of ts": lambda events: next(e for e in events if e["ph"] == "X").update(ts="1"),
    "does not pair up": lambda events: events.remove(next(e for e in events if e["ph"] == "f")),
    "bound to no event": lambda events: next(e for e in events if e["ph"] == "f").update(ts=1e9),
    "ends after": lambda events: next(e for e in events if e["name"] == "forward 0").update(dur=0.15e6),
    "has no name": lambda events: events.remove(next(e for e in events if e["name"] == "thread_name")),
    "series are numbers": lambda events: next(e for e in events if e["ph"] == "C").update(args={"parameters": "many"}),
}


@pytest.mark.parametrize("mistake", SPOIL)
def test_the_check_of_the_format_finds(run: RunDirectory, tmp_path: Path, mistake: str) -> None:
    document = copy.deepcopy(document_of(run, to=tmp_path))
    SPOIL[mistake](document["traceEvents"])
    assert [found for found in mistakes(document) if mistake in found]
