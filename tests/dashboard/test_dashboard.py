"""What the dashboard's pages compute: addresses, tables, the queue, failures. No page is drawn here."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import time
import tomllib
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.helpers.run_directory import new_run
from tests.helpers.states import finished, live
from workbench.analysis.formatting import duration
from workbench.analysis.progress import Follower
from workbench.api import Run
from workbench.charts.step_parts import step_parts_chart
from workbench.charts.theme import COLOURS
from workbench.dashboard import address
from workbench.dashboard.components.failure import failure
from workbench.dashboard.downloads import csv_of, picture_of, tables_of
from workbench.dashboard.table import SHOWN, Overview, chosen, filtered, tags_of
from workbench.spec import RunSpec
from workbench.spec.paths import differences, spec_of
from workbench.store.active import ActiveRuns
from workbench.store.events import Event, EventWriter, ParityEvent, ReadyEvent, StepEvent
from workbench.store.labels import relabel
from workbench.store.records import RunError
from workbench.store.run_status import RunState, RunStatus

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "table",
    [
        {},
        {"model": "mlp", "split": {"data": 2, "tensor": {"size": 2, "cut": {"a": "b"}}}, "name": "ü & <b> = 1"},
        {"model": {"name": "transformer", "preset": "gpt2-124m"}, "dataset": {"name": "synthetic", "sequence_length": 16}},
        {"split": {"pipeline": {"partition": [2, 4]}}, "train": {"learning_rate": 1e-5, "compile": True}},
    ],
)
def test_a_shared_address_opens_the_same_configuration(table: dict[str, Any]) -> None:
    spec = RunSpec(**table)
    paths, problems = address.read(address.write(differences(spec)))
    assert problems == []
    assert spec_of(paths) == spec


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"split.pipeline.schedule_file": "/etc/passwd", "split.data.size": "2"}, "unknown key 'split.pipeline.schedule_file'"),
        ({"train.num_steps": "0", "split.data.size": "2"}, "takes a number from 1"),
        ({"train.num_steps": "many", "split.data.size": "2"}, "takes a number"),
        ({"train.num_steps": "1" * 30, "split.data.size": "2"}, "takes a number from 1 to 9,007,199,254,740,991,"),
        ({"train.precision": "fp8", "split.data.size": "2"}, "unknown choice 'fp8'"),
        ({"train.compile": "perhaps", "split.data.size": "2"}, "takes true or false"),
        ({"name": "x" * 5000, "split.data.size": "2"}, "at most 4000 characters"),
    ],
)
def test_what_no_form_offers_is_left_out_of_an_address_and_said(parameters: dict[str, str], sentence: str) -> None:
    paths, (problem,) = address.read(parameters)
    assert paths == {"split.data.size": 2}
    assert sentence in problem


def test_an_address_cannot_name_a_model_by_its_file() -> None:
    for name in ("/tmp/evil.py", "os", "../mlp"):
        paths, (problem,) = address.read({"model.name": name})
        assert paths == {}
        assert "unknown model" in problem or "is a file" in problem
    paths, (problem,) = address.read({"model.name": "/tmp/evil.py:build", "dataset.name": "digits", "train.num_steps": "3"})
    assert paths == {}
    assert problem.endswith("or use workbench run --model /tmp/evil.py:build")


def test_an_address_cannot_name_a_file_as_dataset() -> None:
    for name in ("/home/others/table.csv", "hf:/home/others/data", "images/"):
        paths, (problem,) = address.read({"model.name": "mlp", "dataset.name": name})
        assert paths == {}
        assert problem.endswith(f"or use workbench run --dataset {name}")


def test_the_table_is_filtered_by_every_word_and_condition_and_sorted(tmp_path: Path) -> None:
    relabel(finished(tmp_path, "run-1", 1.0, 0.3), name="fast one", tags=["keep", "gpu"])
    relabel(finished(tmp_path, "run-2", 2.0, 0.1), name="=HYPERLINK()", tags=["keep"], note="about .* stars")
    live(tmp_path, "run-3", 3.0, split="tp2")
    frame = Overview(tmp_path).frame
    assert list(filtered(frame)["run_id"]) == ["run-3", "run-2", "run-1"]
    assert list(filtered(frame, sort="shortest step")["run_id"]) == ["run-2", "run-1", "run-3"]
    assert list(filtered(frame, "FAST dp2")["run_id"]) == ["run-1"]
    assert list(filtered(frame, ".*")["run_id"]) == ["run-2"], "a filter is text, never a pattern"
    assert list(filtered(frame, states=["queued"])["run_id"]) == ["run-3"]
    assert list(filtered(frame, tags=["keep", "gpu"])["run_id"]) == ["run-1"]
    assert list(filtered(frame, models=["vit"])["run_id"]) == []
    assert tags_of(frame) == ["gpu", "keep"]
    assert chosen(frame, ["run-2", "../run-1", "run-1"]) == ["run-1", "run-2"]
    assert frame.set_index("run_id").loc["run-1", "step_time_ms"] == 300
    assert list(frame["parity"]) == ["equal", "equal", ""]


def test_the_tables_figures_have_the_units_of_their_heads(tmp_path: Path) -> None:
    run = finished(tmp_path, "run-1", 1.0, 0.25)
    run.write_summary(replace(run.summary(), peak_memory_bytes=3 * 2**20, communication_bytes_per_step=2**19))
    row = Overview(tmp_path).frame.iloc[0]
    assert {SHOWN[column]: row[column] for column in ("step_time_ms", "peak_memory_mib", "communication_mib")} == {
        "step (ms)": 250.0,
        "peak (MiB)": 3.0,
        "communication (MiB)": 0.5,
    }


def test_an_empty_store_has_an_empty_table(tmp_path: Path) -> None:
    assert Overview(tmp_path / "nowhere").frame.empty


def test_cancelling_takes_the_baselines_that_no_other_run_waits_for(tmp_path: Path) -> None:
    shared, own = live(tmp_path, "base-1", 1.0, "running"), live(tmp_path, "base-2", 2.0)
    first = live(tmp_path, "split-1", 3.0, baseline_run_id="base-1", same_cores_baseline_run_id="base-2")
    second = live(tmp_path, "split-2", 4.0, baseline_run_id="base-1")
    finished(tmp_path, "old", 0.0, 1.0)
    assert [run.id for run in ActiveRuns(tmp_path).read()] == ["base-1", "base-2", "split-1", "split-2"]
    assert [run.id for run in Run(first).cancel()] == ["split-1", "base-2"]
    assert (first.cancel_requested(), own.cancel_requested(), shared.cancel_requested()) == (True, True, False)
    assert [run.id for run in Run(second).cancel()] == ["split-2", "base-1"], "split-1, asked to end, needs it no more"


def test_cancelling_leaves_a_run_that_was_asked_for_itself(tmp_path: Path) -> None:
    single = live(tmp_path, "single-1", 1.0, "running", started_as_baseline=False)
    split = live(tmp_path, "split-1", 2.0, baseline_run_id="single-1")
    assert [run.id for run in Run(split).cancel()] == ["split-1"]
    assert not single.cancel_requested()


def test_cancelling_takes_both_baselines_where_one_waits_for_the_other(tmp_path: Path) -> None:
    live(tmp_path, "base-1", 1.0, "running", baseline_run_id="base-1")
    live(tmp_path, "base-2", 2.0, baseline_run_id="base-1")
    split = live(tmp_path, "split-1", 3.0, baseline_run_id="base-1", same_cores_baseline_run_id="base-2")
    assert [run.id for run in Run(split).cancel()] == ["split-1", "base-2", "base-1"]


def test_when_a_run_was_made_is_said_by_this_machines_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    live(tmp_path, "run-1", 0.0)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert str(Overview(tmp_path).frame["created"].iloc[0]) == "1970-01-01 09:00:00"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_follower_reads_on_where_it_left_off(tmp_path: Path) -> None:
    run = live(tmp_path, "run-1", 1.0, "running")
    follower = Follower(run)
    follower.read_new()
    assert follower.progress is None
    assert [worker["state"] for worker in follower.workers()] == ["starting", "starting"]
    for rank, steps in ((0, 3), (1, 2)):
        events = EventWriter(run.events_path(rank))
        events.write(ReadyEvent(rank=rank))
        events.write(ParityEvent(rank=rank, ok=True, max_error=0.0, verdict="equal"))
        for s in range(steps):
            events.write(StepEvent(rank=rank, kind="timed", step=s, num_steps=9, loss=2.0 - s, duration_s=0.5))
    follower.read_new()
    follower.read_new()
    assert follower.progress == (2, 9), "as far as the slowest is"
    assert follower.losses == [{"step": s, "loss": 2.0 - s} for s in range(3)]
    assert follower.parity == "equals one worker"
    parity = follower.events[0][1]
    assert isinstance(parity, ParityEvent)
    follower.events[0][1] = replace(parity, verdict="equal per shard")
    assert follower.parity == "equals one worker per shard"
    first, second = follower.workers()
    assert (first["state"], first["step"], first["samples_per_s"]) == ("timed steps", 3, 16 / 0.5)
    assert first["memory_mib"] > 1, "its process is this one"
    assert second["memory_mib"] is None
    run.write_status(RunStatus(RunState.FINISHED))
    assert follower.workers()[0]["memory_mib"] is None, "another process may have the number now"
    follower.events[0] = follower.events[0][:1]
    assert follower.workers()[0]["state"] == "stopped", "it does not check parity any more"


def test_the_remaining_time_is_that_of_the_slowest_worker(tmp_path: Path) -> None:
    follower = Follower(live(tmp_path, "run-1", 1.0, "running"))
    steps: list[Event] = [
        StepEvent(rank=0, time=10.0 + 2 * s, kind="timed", step=s, num_steps=9, loss=None, duration_s=0.5) for s in range(3)
    ]
    follower.events = {0: steps, 1: steps[:1]}
    assert follower.remaining_s is None
    follower.events = {0: steps, 1: steps[:2]}
    assert follower.remaining_s == 7 * 2.0
    assert [duration(seconds) for seconds in (8.4, 125.0)] == ["8 s", "2 min 05 s"]


def test_a_failure_names_worker_step_reason_lines_and_what_to_try(tmp_path: Path) -> None:
    run = new_run(tmp_path, "run-1")
    assert failure(Run(run)) is None
    run.write_status(RunStatus(RunState.FAILED, "worker 1: killed by SIGKILL"))
    run.write_error(
        RunError(rank=1, step=4, exception="killed by SIGKILL", last_lines=tuple(map(str, range(30))), advice="Use less.")
    )
    card = failure(Run(run))
    assert card is not None
    assert (card.worker, card.step, card.reason, card.last_lines[-1]) == (1, 4, "killed by SIGKILL", "29")
    assert card.advice == "Use less.", "as recorded"
    lost = new_run(tmp_path, "run-2")
    lost.write_status(RunStatus(RunState.LOST, "the supervisor process is gone"))
    assert "run it again" in failure(Run(lost)).advice


def test_downloads_hold_every_table(tmp_path: Path) -> None:
    run = finished(tmp_path, "run-1", 1.0, 0.5)
    with zipfile.ZipFile(io.BytesIO(tables_of([run], "csv"))) as archive:
        assert {"runs.csv", "steps.csv", "communication.csv"} <= set(archive.namelist())
        assert b"run-1" in archive.read("runs.csv")


def test_a_chart_is_downloaded_as_a_picture_and_its_data_whole() -> None:
    frame = pd.DataFrame({"split": ["dp2", "=1+1"], "part": "compute", "milliseconds": [3.0, 4.0], "step_ms": [3.5, 4.5]})
    chart = step_parts_chart(frame)
    assert picture_of(chart, "png").startswith(b"\x89PNG")
    assert b"Where does the time of a step go?" in picture_of(chart, "svg")
    read = pd.read_csv(io.BytesIO(csv_of(frame)))
    assert list(read["split"]) == ["dp2", "'=1+1"]
    assert list(read["milliseconds"]) == [3.0, 4.0]


def test_the_server_ends_with_its_command(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "workbench.cli.main", "dashboard", "--port", str(port)]
    environment = {**os.environ, "WORKBENCH_HOME": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        while not _answers(port):
            assert server.poll() is None
            time.sleep(0.1)
        server.terminate()
        server.wait()
    assert not _answers(port)


def _answers(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def test_the_dashboard_listens_at_home_says_nothing_to_others_and_has_the_charts_colour() -> None:
    config = tomllib.loads((ROOT / "workbench/dashboard/served/.streamlit/config.toml").read_text())
    assert config["server"]["address"] == "127.0.0.1"
    assert config["client"]["disableDataExport"] is True
    assert config["browser"]["gatherUsageStats"] is False
    assert config["theme"]["light"]["primaryColor"] == COLOURS["compute"]
    assert (ROOT / ".streamlit").resolve() == (ROOT / "workbench/dashboard/served/.streamlit").resolve()
