"""Runs as a user starts them: finished, failed, killed, cancelled, refused. Real processes, a store of their own."""

from __future__ import annotations

import gzip
import json
import math
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

from tests.helpers.command import workbench as in_this_process
from tests.helpers.process import rows, started, wait_until, workbench
from workbench.analysis.side_by_side import side_by_side
from workbench.api import Run
from workbench.cli.main import cli
from workbench.export.report.parts import compare
from workbench.export.report.sections import SECTIONS
from workbench.store.directory import RunDirectory

SIZES = ["--set", "model.hidden_dim=16", "--set", "model.feedforward_dim=32"]
SMALL = ["--model", "mlp", *SIZES, "--set", "train.num_steps=3"]
FAULTY_MODEL = ["--model", "faulty", *SIZES, "--split", "data=2", "--set", "baseline.mode=none"]
FAULTY = {"WORKBENCH_PLUGINS": "workbench.testing.faults"}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def started_pids(run: dict[str, Any], store: Path) -> list[int]:
    status = json.loads((store / "runs" / run["run_id"] / "status.json").read_text())
    return [status["supervisor"]["pid"], *(worker["pid"] for worker in status["workers"])]


def test_a_split_runs_beside_its_baselines_and_is_exported(store: Path, tmp_path: Path) -> None:
    import pandas as pd

    result = workbench(store, "run", *SMALL, "--split", "data=2", "--json", "--assert", "parity_ok == true")
    assert result.returncode == 0, result.stderr
    *_, run = rows(result)
    assert run["state"] == "finished"
    assert run["speedup"] > 0
    files = list(store.glob("runs/*/*.json"))
    assert {path.name for path in files} == {"run.json", "status.json", "environment.json", "summary.json"}
    assert {json.loads(path.read_text())["schema_version"] for path in files} == {1}
    exported = workbench(store, "export", run["run_id"], "--to", str(tmp_path / "out"))
    assert exported.returncode == 0, exported.stderr
    steps = pd.read_csv(tmp_path / "out" / "steps.csv")
    slowest = steps[steps.kind == "timed"].groupby("step").duration_s.max()
    assert slowest.median() == pytest.approx(run["step_time_s"])
    communication = pd.read_csv(tmp_path / "out" / "communication.csv")
    one_worker = communication[communication["rank"] == 0]
    per_step = one_worker.groupby("step").payload_bytes.sum()
    assert set(per_step) == {run["communication_bytes_per_step"]}
    shown = workbench(store, "show", run["run_id"])
    assert "expected" in shown.stdout
    assert all(figure in shown.stdout for figure in ("limit: dp2 is limited by", "noise: median", "FLOPs:", "data: fetching"))
    again = workbench(store, "run", *SMALL, "--split", "data=2", "--json")
    assert [r["run_id"] for r in rows(again)][:2] == [r["run_id"] for r in rows(result)][:2], "baselines are reused"


def test_runs_submitted_together_run_in_the_order_of_their_submission(store: Path) -> None:
    small = "wb.RunSpec(model={'name': 'mlp', 'hidden_dim': 16}, train={'num_steps': 3}, split=split)"
    splits = "({'data': 2}, {'layer': 2}, {'tensor': 2}, {'pipeline': 2})"
    code = f"import workbench as wb\nfor run in [wb.submit({small}) for split in {splits}]: run.wait()"
    environment = {**os.environ, "WORKBENCH_HOME": str(store)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    runs = sorted((RunDirectory(path) for path in store.glob("runs/*")), key=lambda run: run.record().created_at)
    assert [run.record().split for run in runs] == ["single", "single", "dp2", "layer2", "tp2", "pp2-1f1b-m4"]
    began = [run.events(0)[0][0].time for run in runs]
    assert began == sorted(began)


def test_torchs_own_trace_is_of_a_step_of_its_own(store: Path) -> None:
    asked = ["--set", "measure.torch_profiler=true", "--set", "baseline.mode=none"]
    result = workbench(store, "run", *SMALL, "--split", "data=2", "--json", *asked)
    assert result.returncode == 0, result.stderr
    run = RunDirectory(store / "runs" / rows(result)[0]["run_id"])
    kinds = run.table("steps").to_pandas().sort_values(["rank", "step"]).groupby("rank")["kind"].agg(list)
    assert [kind[-2:] for kind in kinds] == [["memory", "profiler"]] * 2
    assert len(run.profiler_paths()) == 2
    for path in run.profiler_paths():
        names = [event["name"] for event in json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]]
        assert "gloo:all_reduce" in names
        assert sum(name.startswith("Optimizer.step") for name in names) == 1, "one step"


def test_without_the_server_all_works_the_same(store: Path) -> None:
    result = workbench(store, "run", *SMALL, "--split", "layer=2", "--json", "--no-server", "--set", "baseline.mode=none")
    assert result.returncode == 0, result.stderr
    assert rows(result)[0]["speedup"] is None


@pytest.mark.parametrize("fault", ["raise", "kill"])
def test_a_worker_that_fails_is_named_and_nothing_is_left(store: Path, fault: str) -> None:
    args = [*FAULTY_MODEL, "--set", f"model.fault={fault}", "--set", "train.num_steps=1000"]
    result = workbench(store, "run", *args, "--json", **FAULTY)
    assert result.returncode == 1
    (run,) = rows(result)
    error = json.loads((store / "runs" / run["run_id"] / "error.json").read_text())
    assert run["state"] == "failed"
    assert error["rank"] == 1
    assert ("wrong on purpose" if fault == "raise" else "SIGKILL") in error["exception"]
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in started_pids(run, store)))


def test_a_worker_that_hangs_is_named(store: Path) -> None:
    args = [*FAULTY_MODEL, "--set", "model.fault=hang", "--set", "launch.timeout_s=10"]
    result = workbench(store, "run", *args, "--json", **FAULTY)
    assert result.returncode == 1
    (run,) = rows(result)
    error = json.loads((store / "runs" / run["run_id"] / "error.json").read_text())
    assert error["rank"] == 1
    assert re.search(r"hung: .*; it is at faults\.py, line \d+, in __call__$", error["exception"])
    assert "Current thread" in error["traceback"]
    assert not list((store / "runs" / run["run_id"] / "log").glob("*.stack"))


def test_without_trace_and_memory_steps_what_stands_on_them_is_empty(store: Path, tmp_path: Path) -> None:
    none = ["--set", "measure.num_trace_steps=0", "--set", "measure.num_memory_steps=0", "--set", "baseline.mode=none"]
    result = workbench(store, "run", *SMALL, "--split", "pipeline=2", *none, "--json", "--assert", "idle_s < 1")
    assert result.returncode == 3, "an empty value is false"
    assert "assertion idle_s < 1 is false: idle_s is None" in result.stderr
    (run,) = rows(result)
    empty = {
        "peak_memory_bytes", "communication_bytes_per_step", "compute_s", "exposed_communication_s", "idle_s", "optimizer_s",
        "other_s", "schedule_s", "bubble_fraction", "imbalance",
    }  # fmt: skip
    assert {column for column in empty if run[column] is not None} == set()
    assert (run["parity_ok"], run["step_time_s"] > 0, run["final_loss"] > 0) == (True, True, True)
    views = [["show"], ["compare"], ["export", "--trace", f"{tmp_path}/t.json"]]
    for name, *options in views:
        viewed = CliRunner().invoke(cli, [name, run["run_id"], *options], env={"WORKBENCH_HOME": str(store)})
        assert viewed.exit_code == 0, viewed.output
        assert not re.search(r"\bNone\b|\bnan\b", viewed.output)
    directory = RunDirectory(store / "runs" / run["run_id"])
    assert [section.heading for make in SECTIONS if (section := make(compare([directory])))]  # drawing them takes long
    (row,) = side_by_side({"pipeline": Run(directory)}).to_dict("records")
    assert all(math.isnan(row[column]) for column in ("peak_mib", "communication_mib", "ring_mib", "idle_share", "imbalance"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_cancels_the_run_and_its_baselines(store: Path, number: signal.Signals) -> None:
    process = started(store, "run", *SMALL, "--split", "data=2", "--set", "train.num_steps=1000000")
    # The first baseline is at work, and the run itself waits for it.
    wait_until(lambda: any(store.glob("runs/*/events/*.jsonl")) and any(store.glob("runs/*-dp2-*")))
    process.send_signal(number)
    process.communicate()
    assert process.returncode == 130
    statuses = [json.loads(path.read_text()) for path in store.glob("runs/*/status.json")]
    assert len(statuses) > 1
    assert {status["state"] for status in statuses} == {"cancelled"}
    # A run that was only queued has no workers yet.
    assert not any(psutil.pid_exists(worker["pid"]) for status in statuses for worker in status.get("workers", []))


def test_a_run_whose_supervisor_was_killed_is_lost_and_its_workers_are_gone(store: Path) -> None:
    process = started(store, "run", *SMALL, "--set", "train.num_steps=1000000", "--set", "baseline.mode=none")
    wait_until(lambda: any(store.glob("runs/*/events/*.jsonl")))
    (path,) = store.glob("runs/*/status.json")
    status = json.loads(path.read_text())
    os.kill(status["supervisor"]["pid"], signal.SIGKILL)
    process.communicate()
    assert process.returncode == 1
    assert json.loads(path.read_text())["state"] == "lost"
    wait_until(lambda: not any(psutil.pid_exists(w["pid"]) for w in status["workers"]))


def left_by(store: Path) -> list[int]:
    """The processes that workers of a store's runs started."""
    found = psutil.process_iter(["cmdline", "status"])
    alive = [process for process in found if process.info["status"] != psutil.STATUS_ZOMBIE]
    return [process.pid for process in alive if (process.info["cmdline"] or [""])[-1] == str(store)]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems hand no orphans on")
@pytest.mark.parametrize(
    "end",
    [
        "none",
        "cancel",
        "kill supervisor",
        "kill guard",
        *(pytest.param(end, marks=pytest.mark.cross) for end in ("raise", "kill")),
    ],
)
def test_processes_that_workers_start_end_with_the_run(store: Path, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_PLUGINS", "workbench.testing.faults")
    fault = end if end in ("none", "raise", "kill") else "hang"
    options = ["--set", f"model.fault={fault}", "--set", "model.starts_processes=true", "--set", "measure.parity=false"]
    process = started(store, "run", *FAULTY_MODEL, *options)
    if fault == "hang":
        wait_until(lambda: len(left_by(store)) == 2)
        (run,) = (RunDirectory(path) for path in store.glob("runs/*"))
        supervisor = psutil.Process(run.status().supervisor.pid)
        if end == "cancel":
            run.request_cancel()
        else:
            (supervisor if end == "kill supervisor" else supervisor.parent()).kill()
    process.communicate()
    (run,) = (RunDirectory(path) for path in store.glob("runs/*"))
    state = {"none": "finished", "cancel": "cancelled", "kill supervisor": "lost"}.get(end, "failed")
    assert run.status().state == state
    if state == "lost":
        wait_until(lambda: not left_by(store))
    assert not left_by(store)
    if end == "kill guard":
        assert run.status().message == "the system ended the supervisor (SIGTERM)"


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (
            ["--set", "train.num_stepz=3"],
            "train.num_stepz: unknown key 'num_stepz'; did you mean 'num_steps'?",
        ),
        (["--model", "trasformer"], "model.name: unknown model 'trasformer'; did you mean 'transformer'?"),
        (["--split", "data=3"], "split.data.size: the global batch size 16 is not divisible by 3 workers (remainder 1)"),
        (["--split", "tensor=3"], "not divisible"),
        (["--split", "layer=9"], "split.layer.size: transformer has 6 blocks, too few for 9 workers"),
        (
            ["--split", "pipeline=2,num_microbatches=5"],
            "split.pipeline.num_microbatches: a batch of 16 is not divisible",
        ),
        (["--split", "pipeline=2,schedule=2f2b"], "split.pipeline.schedule: unknown schedule '2f2b'"),
        (["--split", "data=0"], "split.data.size: must be at least 2, but got 0"),
        (["--set", "train.learning_rate=nan"], "train.learning_rate: must be a finite number, but got nan"),
        (["--set", "link.latency_s=-1"], "link.latency_s: must be at least 0, but got -1"),
        (
            ["--split", "layer=2,partition=parts"],
            "split.layer.partition: must be 'flops', 'parameters', 'blocks' or 'time' or a list, but got 'parts'",
        ),
        (["--split", "layer=2,partition=[0,6]"], "split.layer.partition.0: must be greater than 0, but got 0"),
        (["--model", "mlp", "--dataset", "text"], "dataset.name: provides tokens, but mlp requires features"),
        (["--assert", "speed > 2"], "unknown column 'speed'; did you mean 'speedup'?"),
        (["--set", "train=3"], "train: must be a table of options, but got 3"),
        (["--set", "split.data=2.5"], "split.data: must be the number of workers or a table of options, but got 2.5"),
        (["--split", "data=2.5"], "split.data.size: must be an integer, but got 2.5"),
        (["--split", "data=two"], "split.data.size: must be an integer, but got 'two'"),
        (["--split", "data"], "--split: expects strategy=size, such as data=2, but got 'data'"),
        (["--split", "pipeline=64"], "split.pipeline.size: transformer has 6 blocks, too few for 64 workers"),
        (["--split", "tensor=3"], "; the same applies to attention, feedforward and head"),
        ([""], "SPEC_FILE must name a TOML file, but got ''"),
        (["--nothing"], "workbench: no such option '--nothing'; see `workbench run --help`"),
        (["missing.toml"], "missing.toml: cannot read the file"),
    ],
)
def test_a_wrong_spec_is_refused_in_one_sentence_before_anything_starts(store: Path, args: list[str], sentence: str) -> None:
    result = in_this_process(store, "run", *args)
    assert result.returncode == 2
    assert sentence in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not store.exists()


def test_a_clean_process_imports_neither_torch_nor_frames() -> None:
    heavy = "{'torch', 'pandas', 'pyarrow', 'streamlit', 'ipywidgets'}"
    code = f"import sys, workbench, workbench.cli.main; workbench.RunSpec(); print({heavy} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


@pytest.mark.slow
def test_measure_again_repeats_what_was_disturbed_and_nothing_else(store: Path) -> None:
    (first,) = rows(workbench(store, "run", *SMALL, "--split", "data=2", "--set", "baseline.mode=none", "--json"))
    nothing = workbench(store, "measure-again", first["run_id"])
    assert (nothing.returncode, nothing.stderr) == (0, "Nothing was disturbed; no run was started.\n")
    disturbed = RunDirectory(store / "runs" / first["run_id"])
    summary = disturbed.summary()
    assert summary is not None
    disturbed.write_summary(replace(summary, other_load_cores=1e10))
    again = workbench(store, "measure-again", first["run_id"], "--json")
    assert again.returncode == 0, again.stderr
    (second,) = rows(again)
    assert (second["state"], second["split"]) == ("finished", first["split"])
    assert RunDirectory(store / "runs" / second["run_id"]).record().waits_for_quiet
    listed = {row["run_id"]: row["trust"] for row in json.loads(workbench(store, "ls", "--json").stdout)["runs"]}
    assert listed == {first["run_id"]: "disturbed", second["run_id"]: second["trust"]}
    assert second["trust"] != "disturbed"


def test_a_detached_run_is_shown_by_attach_until_it_ends_or_one_leaves(store: Path) -> None:
    detached = workbench(store, "run", *SMALL, "--set", "train.num_steps=1000000", "--split", "data=2", "--detach")
    assert detached.returncode == 0, detached.stderr
    run_id = detached.stdout.strip()
    assert (store / "runs" / run_id).is_dir()
    leaving = started(store, "attach", run_id)
    assert leaving.stderr
    assert b"attached to" in leaving.stderr.readline()
    leaving.send_signal(signal.SIGINT)
    _, text = leaving.communicate()
    assert leaving.returncode == 0
    assert f"detached from {run_id}, which continues" in text.decode()
    assert json.loads((store / "runs" / run_id / "status.json").read_text())["state"] in ("queued", "starting", "running")
    assert workbench(store, "cancel", run_id).returncode == 0
    attached = workbench(store, "attach", run_id, "--json")
    assert attached.returncode == 1
    assert [row["state"] for row in rows(attached)] == ["cancelled"] * 3
    assert f"run {run_id} cancelled" in attached.stderr


def test_a_detached_run_has_no_assertion(store: Path) -> None:
    refused = workbench(store, "run", *SMALL, "--detach", "--assert", "speedup > 1")
    assert refused.returncode == 2
    assert "--assert needs the result" in refused.stderr
