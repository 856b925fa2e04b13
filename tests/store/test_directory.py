"""The store: what is written is read back, and what a reader must never see is not seen."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.helpers.comparison import SINGLE, SPLIT, record_run
from tests.helpers.run_directory import new_run, step_row
from workbench.errors import UsageError
from workbench.export.tables import export
from workbench.metrics.summary import summarize
from workbench.spec import RunSpec
from workbench.store import listing, runs_table
from workbench.store.columns import RUN_COLUMNS, TABLES
from workbench.store.directory import new_run_id
from workbench.store.events import FinishedEvent, event_from_json
from workbench.store.figures import CpuLoad, Summary, WorkerFigures
from workbench.store.json_record import from_json
from workbench.store.load import other_load_cores
from workbench.store.processes import ProcessIdentity
from workbench.store.records import Environment, Labels, RunError
from workbench.store.run_status import RunState, RunStatus
from workbench.store.state import state_of, status_of
from workbench.store.tables import schema, write_table

FIGURES = {
    "parameters": 10, "peak_memory_bytes": 100, "compute_s": 0.4, "exposed_communication_s": 0.1, "idle_s": 0.2,
    "optimizer_s": 0.1, "other_s": 0.0, "step_s": 0.8, "communication": [],
    "schedule_s": 0.0, "axes": {},
}  # fmt: skip
FIGURES["trace_steps"] = [{"step": 9, **{name: FIGURES[name] for name in FIGURES if name.endswith("_s")}}]


def test_a_run_directory_reads_back_what_was_written(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    assert run.spec() == RunSpec()
    assert run.record().name == "a name"
    assert run.environment() == Environment(num_cores=2)
    queued = RunStatus(RunState.QUEUED, submitted=run.status().submitted)
    assert (run.status(), run.summary(), run.error(), run.labels()) == (queued, None, None, Labels())
    run.write_labels(Labels(name="other", tags=("a", "b")))
    assert run.labels() == Labels(name="other", tags=("a", "b"))
    run.write_error(RunError(1, "killed", operations=("send",)))
    assert run.error() == RunError(1, "killed", operations=("send",))
    run.request_cancel()
    assert run.cancel_requested()
    assert not [path for path in run.path.iterdir() if path.name.startswith(".")], "no drafts are left"


def test_ids_of_runs_submitted_together_differ() -> None:
    assert len({new_run_id("dp2") for _ in range(100)}) == 100


def line(event: str) -> str:
    return json.dumps({"time": 0.0, "rank": 0, "event": event}) + "\n"


def test_events_are_read_in_whole_lines_only(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    assert run.events(0) == ([], 0)
    run.events_path(0).write_text(line("ready") + line("ready")[:12])
    events, offset = run.events(0)
    assert [event.event for event in events] == ["ready"]
    with run.events_path(0).open("a") as file:
        file.write(line("ready")[12:] + line("of a later version"))
    assert [event.event for event in run.events(0, offset)[0]] == ["ready"], "an event of an unknown kind is skipped"


def test_tables_of_all_workers_come_in_order_of_rank(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    assert {name: run.table(name).column_names for name in TABLES} == {name: list(TABLES[name]) for name in TABLES}
    for rank in (10, 9, 0):
        write_table(run.table_path("steps", rank), "steps", [step_row(run, rank, 0, 1.0)])
    assert run.table("steps")["rank"].to_pylist() == [0, 9, 10]


def test_a_row_with_a_key_that_is_not_a_column_is_not_written(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    misspelt = step_row(run, 0, 1, 1.0) | {"durations": 1.0, "batch": 8}
    with pytest.raises(AssertionError, match="the table 'steps' has no column batch, durations"):
        write_table(run.table_path("steps", 0), "steps", [step_row(run, 0, 0, 1.0), misspelt])
    assert not run.table_path("steps", 0).exists()


def test_the_step_time_is_the_median_of_the_slowest_workers(tmp_path: Path) -> None:
    run = new_run(tmp_path, baseline_run_id="base", same_cores_baseline_run_id="missing")
    new_run(tmp_path, "base", num_workers=1).write_summary(Summary(step_time_s=6.0))
    durations = {0: [1.0, 2.0, 5.0], 1: [3.0, 1.0, 4.0]}  # slowest: 3, 2, 5
    for rank, times in durations.items():
        rows = [step_row(run, rank, step, duration, loss=float(rank + step)) for step, duration in enumerate(times)]
        warmup = step_row(run, rank, 9, 99.0, kind="warmup")
        write_table(run.table_path("steps", rank), "steps", [*rows, warmup])
    finished = FinishedEvent(rank=0, figures=from_json(WorkerFigures, FIGURES))
    parity = event_from_json({"event": "parity", "rank": 0, "time": 0.0, "ok": True, "max_error": 1e-9})
    assert parity is not None
    summary = summarize(run, [[parity, finished], [finished]])
    assert summary.step_time_s == 3.0
    assert summary.num_timed_steps == 3
    assert summary.speedup == 2.0
    assert summary.efficiency == 1.0
    assert summary.speedup_same_cores is None, "what is not known is empty"
    assert summary.bubble_fraction is None, "nothing is staged here"
    assert summary.final_loss == 2.5
    assert summary.parity_ok is True
    assert summary.parity_verdict == "equal", "as it was recorded before the whole batch was compared"
    assert summary.parity_whole_batch_error is None


def test_a_run_is_found_by_its_id_a_part_of_it_or_as_the_latest(tmp_path: Path) -> None:
    ids = ("20260101-000000-dp2-aaaaaa", "20260101-000001-dp2-bbbbbb-x", "20260101-000001-dp2-bbbbbb")
    for created_at, run_id in enumerate(ids):
        new_run(tmp_path, run_id, created_at=float(created_at))
    assert listing.find(tmp_path, "aaaa").id == "20260101-000000-dp2-aaaaaa"
    assert listing.find(tmp_path, "20260101-000001-dp2-bbbbbb").id == "20260101-000001-dp2-bbbbbb"
    assert listing.find(tmp_path, "latest").id == "20260101-000001-dp2-bbbbbb", "by time, not by id"
    for text, sentence in (("dp2", "matches 3"), ("zzz", "is not in the store"), ("", "is not in the store")):
        with pytest.raises(UsageError, match=sentence):
            listing.find(tmp_path, text)


def test_rows_leave_deleted_runs_out_and_name_every_column(tmp_path: Path) -> None:
    run, deleted = new_run(tmp_path, "run-1"), new_run(tmp_path, "run-2")
    run.write_status(RunStatus(RunState.FINISHED))
    run.write_summary(Summary(step_time_s=0.5))
    run.write_labels(Labels(name="renamed"))
    deleted.write_labels(Labels(deleted_at=time.time()))
    (row,) = runs_table.rows(tmp_path)
    assert tuple(row) == RUN_COLUMNS
    assert (row["run_id"], row["state"], row["step_time_s"], row["name"]) == ("run-1", "finished", 0.5, "renamed")
    assert row["speedup"] is None


def test_a_lost_run_is_read_where_the_store_cannot_be_written(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    run.write_status(RunStatus(RunState.RUNNING, supervisor=ProcessIdentity(os.getpid(), 1.0)))
    (run.path / f".status.json.{os.getpid()}").symlink_to("/dev/full")
    assert state_of(run) == "lost"
    message = "the supervisor process is gone; the store cannot be written: No space left on device"
    assert status_of(run).message == message


@pytest.mark.parametrize("file_format", ["csv", "parquet"])
def test_an_export_has_the_columns_of_the_tables(tmp_path: Path, file_format: str) -> None:
    import pandas as pd

    run = new_run(tmp_path)
    run.write_status(RunStatus(RunState.FINISHED))
    write_table(run.table_path("steps", 0), "steps", [step_row(run, 0, 0, 1.0)])
    paths = export([run], tmp_path / "out", file_format)
    read = pd.read_csv if file_format == "csv" else pd.read_parquet
    frames = {path.stem: read(path) for path in paths}
    expected = {"runs": list(RUN_COLUMNS), **{name: list(columns) for name, columns in TABLES.items()}}
    assert {name: list(frame.columns) for name, frame in frames.items()} == expected
    assert frames["steps"]["loss"].isna().all(), "what was not measured is empty, never 0"
    if file_format == "parquet":
        import pyarrow.parquet as pq

        schemas = {path.stem: pq.read_schema(path) for path in paths}
        assert schemas == {name: schema(name) for name in expected}, "types do not depend on what the rows hold"


def test_a_text_that_a_spreadsheet_would_compute_stays_text(tmp_path: Path) -> None:
    import pandas as pd

    names = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "a = b"]
    runs = [new_run(tmp_path, f"run-{number}", name=name) for number, name in enumerate(names)]
    for run in runs:
        run.write_status(RunStatus(RunState.FINISHED))
        write_table(run.table_path("steps", 0), "steps", [step_row(run, 0, 0, 1.0, loss=-1.5)])
    export(runs, tmp_path / "out", "csv")
    assert list(pd.read_csv(tmp_path / "out" / "runs.csv")["name"]) == [*("'" + name for name in names[:-1]), "a = b"]
    assert set(pd.read_csv(tmp_path / "out" / "steps.csv")["loss"]) == {-1.5}, "numbers stay numbers"
    export(runs, tmp_path / "out", "parquet")
    assert list(pd.read_parquet(tmp_path / "out" / "runs.parquet")["name"]) == names


def test_traces_of_torchs_profiler_are_exported_beside_the_tables(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    run.write_status(RunStatus(RunState.FINISHED))
    run.profiler_path(1).parent.mkdir()
    run.profiler_path(1).write_bytes(b"a trace")
    (path,) = [path for path in export([run], tmp_path / "out", "csv") if path.name == "rank-1.json.gz"]
    assert path.parent == tmp_path / "out" / "profiler" / run.id
    assert path.read_bytes() == b"a trace"


@pytest.mark.clock
def test_a_thousand_runs_are_listed_in_half_a_second(tmp_path: Path) -> None:
    for number in range(1000):
        run = new_run(tmp_path, f"run-{number:04d}")
        run.write_status(RunStatus(RunState.FINISHED))
        run.write_summary(Summary(step_time_s=0.5))
    started = time.process_time()  # not the wall clock: other tests may share the cores
    assert len(runs_table.rows(tmp_path)) == 1000
    assert time.process_time() - started < 0.5


def test_each_file_of_a_run_is_read_once_for_the_table_of_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    single = record_run(tmp_path, SINGLE, "finished", 1)
    splits = [record_run(tmp_path, f"{SPLIT}{i}", "finished", 2) for i in range(3)]
    reads, read = Counter[str](), Path.read_bytes

    def counted(path: Path) -> bytes:
        reads[f"{path.parent.name}/{path.name}"] += 1
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    assert [row["speedup"] for row in runs_table.rows(tmp_path)] == [1.0] * 4
    files = ("run.json", "summary.json", "status.json")  # none of these runs has labels
    assert all(reads.pop(f"{run.id}/{file}") == 1 for run in splits for file in files)
    assert reads == {f"{single.id}/{file}": 2 if file in files[:2] else 1 for file in files} | {f"{tmp_path.name}/index.json": 1}


@pytest.mark.clock
@pytest.mark.parametrize("file_format", ["csv", "parquet"])
def test_a_million_operations_are_exported_and_summarised_in_five_seconds(tmp_path: Path, file_format: str) -> None:
    from benchmarks.export import NUM_ROWS, NUM_STEPS, fill
    from workbench.analysis.communication import operations

    run = fill(tmp_path)
    started = time.process_time()
    paths = export([run], tmp_path / "out", file_format)
    assert time.process_time() - started < 5
    (path,) = [path for path in paths if path.stem == "communication"]
    started = time.process_time()
    assert operations(run)["count"].sum() == NUM_ROWS / NUM_STEPS
    assert time.process_time() - started < 5
    assert path.stat().st_size > NUM_ROWS


def test_what_other_programs_did_during_a_blink_is_not_known() -> None:
    assert other_load_cores([CpuLoad(0.02, 0.04, 0.02)]) is None
    assert other_load_cores([CpuLoad(2.0, 3.0, 2.0)]) == 0.5
