"""Submission in this process: what is planned, recorded and rejected. No supervisor starts."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

import workbench as wb
from tests.helpers.command import workbench
from tests.helpers.run_directory import new_run
from workbench.api import submission
from workbench.api.remeasurement import can_be_measured_again, measure_again, pending
from workbench.errors import RunFailedError, SpecError, UsageError
from workbench.launch import start as launcher
from workbench.launch.device_queue import Ticket, locked_tickets
from workbench.launch.environment import baseline_key
from workbench.plan import resolve
from workbench.plan.plan import Plan
from workbench.store.directory import RunDirectory
from workbench.store.figures import Summary
from workbench.store.run_status import RunState, RunStatus

SPEC: dict[str, Any] = {"model": {"name": "mlp", "hidden_dim": 8, "num_layers": 2}, "train": {"num_steps": 2}}


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[RunDirectory]:
    """The runs whose supervisor would have been started, in a store of the test's own."""
    runs: list[RunDirectory] = []
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    monkeypatch.setattr(launcher, "start", lambda run, use_server, ticket: runs.append(run))
    return runs


def end(run: wb.Run) -> wb.Run:
    """Takes the place of ``Run.wait``: nothing would end the run."""
    run.directory.write_status(RunStatus(RunState.FAILED))
    return run


def test_each_spec_is_planned_once(started: list[RunDirectory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[str] = []

    def check_link(plan: Plan) -> None:
        planned.append(plan.spec.split.label)

    monkeypatch.setattr(resolve, "check_link", check_link)  # the last check of a plan
    monkeypatch.setattr(wb.Run, "wait", end)
    assert workbench(tmp_path, "run", "--model", "mlp", "--split", "tensor=2", "--json").returncode == 1, "they have failed"
    assert planned == ["tp2", "single", "single"], "the split, and its baselines with one and with two threads"
    assert len(started) == 3


@pytest.mark.parametrize(
    ("mode", "sentence"),
    [
        ("off", "run 'off' is not in the store; `workbench ls` lists all runs."),
        ("atuo", "run 'atuo' is not in the store; `workbench ls` lists all runs; did you mean 'auto'?"),
        ("single", "run 'single' matches 2 runs: "),
    ],
)
def test_a_baseline_that_is_not_in_the_store_is_rejected(
    started: list[RunDirectory], tmp_path: Path, mode: str, sentence: str
) -> None:
    for _ in range(2):
        wb.submit(wb.RunSpec(**SPEC))
    options = ["--model", "mlp", "--split", "pipeline=2,partition=time", "--set", f"baseline.mode={mode}"]
    result = workbench(tmp_path, "run", *options)
    assert result.returncode == 2
    assert result.stderr.startswith(f"workbench: baseline.mode: {sentence}")
    assert result.stderr.endswith(" Allowed: 'auto', 'none' or the id of a run\n")
    assert len(started) == 2, "nothing more was started"


def test_a_comparison_rejects_a_baseline_before_its_first_spec_runs(started: list[RunDirectory]) -> None:
    with pytest.raises(SpecError, match=r"baseline\.mode: run 'off' is not in the store"):
        wb.compare([wb.RunSpec(**SPEC), wb.RunSpec(**SPEC, baseline={"mode": "off"})])
    assert not started


def test_a_run_is_compared_with_the_run_that_baseline_mode_names() -> None:
    single = wb.submit(wb.RunSpec(**SPEC))
    split = wb.submit(wb.RunSpec(**SPEC, split={"data": 2}, baseline={"mode": single.id[-6:]}))
    assert (split.record["baseline_run_id"], split.record["same_cores_baseline_run_id"]) == (single.id, None)
    assert single.record["baseline_run_id"] == single.id, "one worker is its own baseline"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"model": {**SPEC["model"], "hidden_dim": 16}}, "do different work: model.hidden_dim 8 and 16"),
        ({"train": {"num_steps": 2, "global_batch_size": 32}}, "do different work: train.global_batch_size 16 and 32"),
        ({"model": {"name": "transformer"}}, "do different work: model.name mlp and transformer, dataset.name digits and text"),
        ({"mode": "inference"}, "do different work: mode train and inference"),
    ],
)
def test_a_named_baseline_of_different_work_is_rejected(
    started: list[RunDirectory], tmp_path: Path, values: dict[str, Any], reason: str
) -> None:
    single = wb.submit(wb.RunSpec(**SPEC))
    assert wb.submit(wb.RunSpec(**SPEC, launch={"threads_per_worker": 2}, name="b", baseline={"mode": single.id})).is_new
    spec = wb.RunSpec(**{**SPEC, **values}, split={"data": 2}, baseline={"mode": single.id})
    with pytest.raises(SpecError) as error:
        wb.submit(spec)
    assert (error.value.field, error.value.message) == ("baseline.mode", f"run {single.id} and this spec {reason}")
    assert len(started) == 2, "nothing more was started"


def test_a_named_baseline_has_one_worker_and_figures(started: list[RunDirectory]) -> None:
    split = wb.submit(wb.RunSpec(**SPEC, split={"data": 2}))
    with pytest.raises(SpecError, match=r"has 2 workers, but a baseline has one"):
        wb.submit(wb.RunSpec(**SPEC, split={"data": 2}, baseline={"mode": split.id}))
    single = end(wb.submit(wb.RunSpec(**SPEC, baseline={"mode": "none"})))
    with pytest.raises(SpecError, match=f"run {single.id} has no figures to compare with: it is failed"):
        wb.submit(wb.RunSpec(**SPEC, split={"data": 2}, baseline={"mode": single.id}))
    assert len(started) == 4, "the split, its baselines and the single worker"


def test_a_run_and_its_baselines_start_without_the_fork_server_where_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(launcher, "start", lambda run, use_server, ticket: asked.append(use_server))
    monkeypatch.setattr(wb.Run, "wait", end)
    split = ("run", "--json", "--model", "mlp", "--split", "data=2")
    workbench(tmp_path / "command", *split, "--no-server")
    workbench(tmp_path / "set", *split, "--set", "launch.fork_server=false")
    wb.submit(wb.RunSpec(**SPEC, split={"data": 2}), use_server=False)
    assert asked == [False] * 9
    run = wb.submit(wb.RunSpec(**SPEC, split={"data": 2}))
    assert asked[9:] == [True], "its baselines are those that were started without"
    assert run.spec.launch.fork_server


def test_a_supervisor_that_cannot_start_ends_the_run_and_its_baselines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[RunDirectory]
) -> None:
    def start(run: RunDirectory, use_server: bool, ticket: Ticket | None) -> None:
        if run.record().num_workers == 2:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        started.append(run)

    monkeypatch.setattr(launcher, "start", start)
    monkeypatch.setattr(wb.Run, "wait", end)
    with pytest.raises(RunFailedError, match=r"the supervisor cannot be started: .* Resource temporarily unavailable"):
        wb.submit(wb.RunSpec(**SPEC, split={"data": 2}))
    states = {path.name.split("-")[2]: RunDirectory(path).status() for path in (tmp_path / "runs").iterdir()}
    assert states["dp2"].state == RunState.FAILED
    assert "Resource temporarily unavailable" in states["dp2"].message
    assert [run.cancel_requested() for run in started] == [True, True]
    assert not locked_tickets(), "nobody holds a ticket that no supervisor has taken over"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
@pytest.mark.parametrize("name", ["environment.json", "run.json", "status.json"])
def test_a_full_disk_is_one_sentence_and_leaves_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(submission, "new_run_id", lambda label: "run-1")
    (tmp_path / "runs" / "run-1").mkdir(parents=True)
    (tmp_path / "runs" / "run-1" / f".{name}.{os.getpid()}").symlink_to("/dev/full")
    with pytest.raises(UsageError, match=r"cannot write to the store .* \(No space left on device\)"):
        wb.submit(wb.RunSpec(**SPEC))
    assert not list((tmp_path / "runs").iterdir())


def finish(run: RunDirectory, other_load_cores: float) -> None:
    """Takes the place of the supervisor of a run that has finished."""
    run.write_summary(Summary(step_time_s=1.0, other_load_cores=other_load_cores, num_timed_steps=20))
    run.write_status(RunStatus(RunState.FINISHED))


def test_a_machine_that_is_never_quiet_can_allow_more_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORKBENCH_MAX_OTHER_LOAD_CORES")
    assert wb.submit(wb.RunSpec(**SPEC)).record.max_other_load_cores == 0.2
    monkeypatch.setenv("WORKBENCH_MAX_OTHER_LOAD_CORES", "1.5")
    assert wb.submit(wb.RunSpec(**SPEC)).record.max_other_load_cores == 1.5
    for wrong in ("much", "nan", "-1", "inf"):
        monkeypatch.setenv("WORKBENCH_MAX_OTHER_LOAD_CORES", wrong)
        with pytest.raises(UsageError, match=f"must be a finite number of cores from 0, but is '{wrong}'"):
            wb.submit(wb.RunSpec(**SPEC))


def test_a_disturbed_baseline_is_measured_again_before_it_is_used_again(
    started: list[RunDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORKBENCH_MAX_OTHER_LOAD_CORES")
    first = wb.submit(wb.RunSpec(**SPEC, split={"data": 2}))
    busy, quiet = (RunDirectory(first.path.parent / run_id) for run_id in first.record.baseline_ids)
    finish(busy, 1.3)
    finish(quiet, 0.1)
    second = wb.submit(wb.RunSpec(**SPEC, split={"tensor": 2}))
    assert len(started) == 5, "two splits, two baselines, and one of these again"
    assert second.record.baseline_run_id not in first.record.baseline_ids
    assert second.record.same_cores_baseline_run_id == quiet.id
    finish(RunDirectory(first.path.parent / str(second.record.baseline_run_id)), 0.0)
    third = wb.submit(wb.RunSpec(**SPEC, split={"pipeline": 2}))
    assert third.record.baseline_ids == second.record.baseline_ids

    tolerant = wb.submit(wb.RunSpec(**SPEC, split={"pipeline": 2}, measure={"max_other_load_cores": 4.0}))
    assert tolerant.record.max_other_load_cores == 4.0


def test_what_was_disturbed_is_measured_again_and_each_baseline_once(
    started: list[RunDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORKBENCH_MAX_OTHER_LOAD_CORES")
    one, two = (wb.submit(wb.RunSpec(**SPEC, split={name: 2})) for name in ("data", "tensor"))
    alone = wb.submit(wb.RunSpec(**SPEC, split={"data": 2}, baseline={"mode": "none"}))
    first, same_cores = (RunDirectory(one.path.parent / run_id) for run_id in one.record.baseline_ids)
    for run, load in ((first, 1.3), (same_cores, 0.9), (one.directory, 0.1), (two.directory, 0.9), (alone.directory, 0.1)):
        finish(run, load)
    assert one.row()["speedup"] is None
    assert [can_be_measured_again(run) for run in (one, two, alone)] == [True, True, False]

    runs = [wb.Run(same_cores), one, two, alone, wb.Run(first)]
    new_same_cores, new_one, new_two, same, new_first = measure_again(runs)

    assert [run.id for run in started[5:]] == [new_first.id, new_same_cores.id, new_one.id, new_two.id]
    assert all(run.record().waits_for_quiet for run in started[5:])
    assert (same, new_one.is_new) == (alone, True)
    assert new_same_cores.record.baseline_run_id == new_first.id, "not the disturbed one that its spec names"
    assert new_one.record.baseline_ids == new_two.record.baseline_ids == (new_first.id, new_same_cores.id)
    assert [run.id for run in pending([new_one])] == [new_first.id, new_same_cores.id, new_one.id]


def test_nothing_is_measured_again_if_one_of_the_runs_cannot_be(
    started: list[RunDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORKBENCH_MAX_OTHER_LOAD_CORES")
    runs = [wb.submit(wb.RunSpec(**SPEC, split={name: 2}, baseline={"mode": "none"})) for name in ("data", "tensor")]
    for run in runs:
        finish(run.directory, 1.3)
    runs[1].directory.spec_path.write_text(runs[1].spec_text.replace('"mlp"', '"elsewhere"'), encoding="utf-8")
    with pytest.raises(SpecError, match="elsewhere"):
        measure_again(runs)
    assert len(started) == 2


def test_a_baseline_is_searched_for_from_the_newest_run_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, read = wb.RunSpec(), list[str]()
    for number, key in enumerate(("x", baseline_key(spec), baseline_key(spec), "x")):
        new_run(tmp_path, f"run-{number}", baseline_key=key)
    labels = RunDirectory.labels
    monkeypatch.setattr(RunDirectory, "labels", lambda run: read.append(run.id) or labels(run))
    found = submission.reusable_baseline(spec)
    assert found is not None
    assert found.id == "run-2"
    assert read == ["run-3", "run-2"]


def test_a_baseline_is_reused_only_if_the_new_run_allows_its_load(
    started: list[RunDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_MAX_OTHER_LOAD_CORES", "4")
    tolerant = wb.submit(wb.RunSpec(**SPEC, split={"data": 2}))
    for run_id in tolerant.record.baseline_ids:
        finish(RunDirectory(tolerant.path.parent / run_id), 1.3)
    assert wb.submit(wb.RunSpec(**SPEC, split={"tensor": 2})).record.baseline_ids == tolerant.record.baseline_ids
    monkeypatch.delenv("WORKBENCH_MAX_OTHER_LOAD_CORES")
    strict = wb.submit(wb.RunSpec(**SPEC, split={"tensor": 2}))
    assert not set(strict.record.baseline_ids) & set(tolerant.record.baseline_ids)
