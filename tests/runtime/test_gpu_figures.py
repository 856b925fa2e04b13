"""A run as GPUs would record it: no figure of it is the host's clock. Workers are real, over a double of NCCL, on the CPU."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from workbench import api
from workbench.analysis import trace
from workbench.analysis.communication import achieved_bandwidth
from workbench.analysis.limits import limit_of, sentences
from workbench.analysis.side_by_side import side_by_side
from workbench.cli.main import cli
from workbench.errors import UsageError
from workbench.launch import start as launcher
from workbench.metrics.summary import PARTS, summarize
from workbench.notebook.trace_view import TraceView
from workbench.plan import plan as plan_module
from workbench.plan.resolve import plan
from workbench.runtime.tracing.recorder import Recorder
from workbench.runtime.worker import measure_run
from workbench.spec import RunSpec
from workbench.store.directory import RunDirectory
from workbench.store.events import EventWriter
from workbench.store.run_status import RunState, RunStatus
from workbench.testing.nccl_double import NCCLDouble
from workbench.testing.workers import run_in_workers

SPEC = {
    "model": {"name": "mlp"},
    "split": {"pipeline": {"size": 2, "num_microbatches": 2}},
    "train": {"num_steps": 3, "num_warmup_steps": 1},
    "measure": {"num_trace_steps": 2},
    "launch": {"device": "cuda"},
    "baseline": {"mode": "none"},
}
UNKNOWN = (*PARTS, "bubble_fraction", "imbalance", "utilisation")


def work(rank: int, recorder: Recorder, control: Any, path: str) -> None:
    """What a worker on a GPU does, on the CPU."""
    plan_module.num_gpus = lambda: 2
    run = RunDirectory(Path(path))
    recorder.device = "cuda"
    planned = plan(run.spec())
    measure_run(run, planned, rank, torch.device("cpu"), EventWriter(run.events_path(rank)), recorder, control)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[api.Run]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_HOME", str(tmp_path_factory.mktemp("store")))
        patch.setattr(plan_module, "num_gpus", lambda: 2)
        patch.setattr(launcher, "start", lambda directory, use_server, ticket: None)
        started = api.submit(RunSpec(**SPEC))
        run_in_workers(2, work, str(started.directory.path), make_group=NCCLDouble)
        events = [started.directory.events(rank, 0)[0] for rank in range(2)]
        started.directory.write_summary(summarize(started.directory, events))
        started.directory.write_status(RunStatus(RunState.FINISHED))
        yield started


def command(*arguments: str) -> str:
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_parts_of_the_step_are_empty_and_the_rest_is_there(run: api.Run) -> None:
    row, summary = run.row(), run.summary
    assert summary is not None
    assert (row["state"], row["device"], row["backend"], row["parity_ok"]) == ("finished", "cuda", "nccl", True)
    assert row["step_time_s"] > 0
    assert row["peak_memory_bytes"] > 0
    assert row["communication_bytes_per_step"] > 0
    assert [name for name in UNKNOWN if row[name] is not None] == []
    assert limit_of(run.directory) is None
    assert sentences([run.directory], {}) == {run.id: "pp2-1f1b-m2: the limiting factor is not measured on GPUs yet."}


def test_no_table_has_a_time_that_the_host_did_not_see(run: api.Run) -> None:
    operations = run.communication()
    assert len(operations) > 0
    assert operations["start_s"].notna().all()
    columns = ["end_s", "exposed_communication_s", "idle_s", "blocked_s", "late_rank", "completed_s"]
    assert operations[columns].isna().all(axis=None)
    assert run.steps()["blocked_s"].isna().all()
    assert len(run.timeline()) == 0
    assert len(achieved_bandwidth(operations)) == 0


def test_no_view_prints_one(run: api.Run, tmp_path: Path) -> None:
    shown = command("show", run.id)
    assert "not measured on GPUs yet" in shown
    for word in ("limit:", "idle", "bubble", "achieved (lower bound)", "nan", "None", "calibrated for"):
        assert word not in shown
    report = tmp_path / "report.md"
    command("report", run.id, "--to", str(report))
    assert "## Step time" not in report.read_text()
    assert "nan" not in report.read_text()
    document = json.loads(command("compare", run.id, "--json"))
    assert [name for name in UNKNOWN if document["runs"][0][name] is not None] == []
    with pytest.raises(UsageError, match="not measured on GPUs yet"):
        TraceView(run)
    assert trace.steps(run.directory) == []
    frame = side_by_side({"it": run})
    assert frame[["compute_share", "idle_share", "exposed_communication_share", "imbalance"]].isna().all(axis=None)


def test_no_export_has_one(run: api.Run, tmp_path: Path) -> None:
    command("export", run.id, "--to", str(tmp_path), "--format", "csv")
    with (tmp_path / "runs.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert [name for name in UNKNOWN if row[name]] == []
    traced = tmp_path / "trace.json"
    command("export", run.id, "--trace", str(traced))
    events = json.loads(traced.read_text())["traceEvents"]
    operations = [event for event in events if event.get("cat") == "communication"]
    assert operations
    assert {event["ph"] for event in operations} == {"i"}, "an operation has a moment of issue and no length"
    assert not [event for event in events if event.get("cat") in ("wait", "flow", "forward", "backward")]
