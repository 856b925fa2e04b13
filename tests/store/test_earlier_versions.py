"""Runs as earlier versions wrote them: without schema_version, with former names and without later figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.helpers.run_directory import step_row
from workbench import open_run
from workbench.cli.main import cli
from workbench.spec import RunSpec
from workbench.spec.files import dumps
from workbench.store.archive import import_runs, pack
from workbench.store.directory import RunDirectory
from workbench.store.tables import write_table

RUN_ID = "20261124-101530-dp2-3f9a2c"
PARTS = {
    "compute_s": 0.6, "exposed_communication_s": 0.1, "idle_s": 0.1, "optimizer_s": 0.1, "other_s": 0.1,
}  # fmt: skip
OPERATION = {"operation": "all_reduce", "axis": "data", "phase": "backward", "count": 2, "payload_bytes": 4096}
WORKER = {
    "parameters": 10, "gradient_bytes": 40, "optimizer_state_bytes": 80, "peak_memory_bytes": 1000, "resident_peak_bytes": 2000,
    "step_s": 1.0, **PARTS, "communication": [OPERATION],
}  # fmt: skip
FIRST: dict[str, dict[str, Any]] = {
    "run.json": {
        "run_id": RUN_ID, "name": "the first", "mode": "train", "model": "mlp", "dataset": "digits", "split": "dp2",
        "num_workers": 2, "device": "cpu", "backend": "gloo", "torch_version": "2.13.0", "created_at": 1.79e9,
        "baseline_run_id": None, "same_cores_baseline_run_id": None, "baseline_key": None, "threads_per_worker": 1,
        "num_cores": 2, "mesh": {"data": 2}, "expected": {"parameters_per_worker": [10, 10], "transfers": [OPERATION]},
    },
    "environment.json": {"workbench_version": "0.0.1", "torch_version": "2.13.0", "machine": "m", "num_cores": 2},
    "status.json": {
        "state": "finished", "owner": {"pid": 1, "create_time": 1.0}, "step": 3, "message": "", "heartbeat": 1.79e9,
        "workers": [{"rank": rank, "pid": 2 + rank, "device": "cpu"} for rank in range(2)],
    },
    "labels.json": {"name": "renamed", "tags": "a, b"},
    "summary.json": {
        "step_time_s": 1.0, "step_time_p10_s": 1.0, "step_time_p90_s": 1.0, "samples_per_s": 16.0, "tokens_per_s": None,
        "speedup": None, "speedup_same_cores": None, "efficiency": None, "parameters_per_worker": 10, "peak_memory_bytes": 1000,
        "communication_bytes_per_step": 8192, **PARTS, "bubble_fraction": None, "imbalance": 1.0, "final_loss": 2.0,
        "parity_ok": True, "parity_max_error": 1e-12, "parity_tensor": "loss", "num_timed_steps": 1, "workers": [WORKER, WORKER],
    },
}  # fmt: skip
"""Files of a run of the first version."""

UNVERSIONED = {
    **FIRST,
    "summary.json": {
        **FIRST["summary.json"], "schedule_s": 0.0, "data_s": 0.01, "ready_s": None, "other_load_cores": 0.0,
        "parity_verdict": "equal", "spread": {**{part: [0.1, 0.2] for part in (*PARTS, "schedule_s")}, "other_share": [0.0, 0.1]},
        "flops_per_step": 100, "counted_flops_per_step": 101, "flops_per_s": 100.0, "peak_is_of": "fp32 and 1 thread",
        "workers": [
            {
                **WORKER, "schedule_s": 0.0, "counted_flops": 50,
                "axes": {"data": {"exposed_communication_s": 0.1, "idle_s": 0.1}},
                "load": {"elapsed_s": 1.0, "machine_s": 2.0, "own_s": 1.0, "ready_s": None},
                "trace_steps": [{"step": 2, "step_s": 1.0, **PARTS, "schedule_s": 0.0}],
                "completions": {"num_operations": 4, "num_seen": 4, "num_completed": 4, "num_late": 0, "differences": []},
                "communication": [{**OPERATION, "group_size": 2}],
            }
        ] * 2,
    },
}  # fmt: skip
"""Files of a run of the last version before files had one."""


@pytest.fixture(params=[FIRST, UNVERSIONED], ids=["first", "unversioned"])
def run(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    run = RunDirectory(tmp_path / "runs" / RUN_ID)
    run.make_folders()
    for name, values in request.param.items():
        (run.path / name).write_text(json.dumps(values))
    run.spec_path.write_text(dumps(RunSpec(split={"data": 2})))
    (run.path / "log" / "owner.log").write_text("the supervisor's")
    for rank in range(2):
        write_table(run.table_path("steps", rank), "steps", [step_row(run, rank, 1, 1.0)])
        run.log_path(rank).write_text(f"printed by {rank}\n")
        events = [{"event": "ready"}, {"event": "parity", "ok": True, "max_error": 1e-12}]
        events.append({"event": "finished", "figures": request.param["summary.json"]["workers"][rank]})
        lines = [json.dumps({"time": 1.79e9, "rank": rank, **event}) + "\n" for event in events]
        run.events_path(rank).write_text("".join(lines))
    return run


def test_a_run_of_an_earlier_version_is_opened(run: RunDirectory) -> None:
    opened = open_run(RUN_ID)
    row = opened.row()
    assert (row["name"], row["tags"], row["state"], row["parity_verdict"]) == ("renamed", "a, b", "finished", "equal")
    assert (row["step_time_s"], row["communication_bytes_per_step"], row["created_at"]) == (1.0, 8192, 1.79e9)
    assert row["backend"] == "gloo"
    assert run.status().supervisor is not None
    (volume,) = opened.communication_volume()
    assert (volume["expected_bytes"], volume["measured_bytes"]) == (8192, 4096)
    assert [event.event for event in opened.follow() if event] == ["ready", "parity", "finished"] * 2


@pytest.mark.parametrize("command", ["ls", f"show {RUN_ID}", f"compare {RUN_ID}", f"logs {RUN_ID}", f"label {RUN_ID} --tag c"])
def test_commands_read_a_run_of_an_earlier_version(run: RunDirectory, command: str) -> None:
    result = CliRunner().invoke(cli, command.split(), catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_a_run_of_an_earlier_version_is_imported(run: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "run.zip").write_bytes(pack([run]))
    (imported,), _ = import_runs(tmp_path / "other", tmp_path / "run.zip")
    assert imported.summary() == run.summary()
    assert (imported.path / "log" / "owner.log").exists()
