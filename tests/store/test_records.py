"""The JSON files of a run directory: typed, versioned, and readable as earlier versions wrote them."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.run_directory import new_run
from workbench.errors import DamagedRunError
from workbench.store import runs_table
from workbench.store.columns import RUN_COLUMNS
from workbench.store.directory import RunDirectory
from workbench.store.figures import CpuLoad, Summary
from workbench.store.records import Labels, RunRecord
from workbench.store.run_status import RunState

READERS = {
    "run.json": RunDirectory.record,
    "status.json": RunDirectory.status,
    "environment.json": RunDirectory.environment,
    "labels.json": RunDirectory.labels,
    "summary.json": RunDirectory.summary,
    "error.json": RunDirectory.error,
}


def write(run: RunDirectory, file: str, **values: Any) -> None:
    (run.path / file).write_text(json.dumps(values))


@pytest.mark.parametrize("name", READERS)
def test_a_file_of_a_later_version_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    run = new_run(tmp_path)
    write(run, name, schema_version=2)
    with pytest.raises(DamagedRunError, match=rf"{name} has schema_version 2, but this workbench reads versions up to 1"):
        READERS[name](run)


def test_a_status_that_names_its_supervisor_owner_is_read(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    write(run, "status.json", state="running", owner={"pid": 7, "create_time": 1.5}, workers=[], step=None, message="")
    assert run.status().state is RunState.RUNNING
    assert run.status().supervisor is not None
    assert run.status().supervisor.pid == 7


def test_tags_that_are_a_text_are_read(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    write(run, "labels.json", name="a name", tags="a b, c", deleted_at=None)
    assert run.labels() == Labels("a name", ("a b", "c"))


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({}, "state is missing"),
        ({"state": "dancing"}, "state: 'dancing' is not one of queued, starting"),
        ({"state": "queued", "step": "3"}, "step: '3' is not an integer"),
        ({"state": "queued", "workers": [{"rank": 0, "pid": True, "device": "cpu"}]}, "workers: pid: True is not an integer"),
    ],
)
def test_a_value_of_another_type_is_named(tmp_path: Path, values: dict[str, Any], problem: str) -> None:
    run = new_run(tmp_path)
    write(run, "status.json", **values)
    with pytest.raises(DamagedRunError, match=f"status.json is damaged and cannot be read: {problem}"):
        run.status()


def test_a_summary_of_the_first_version_is_read(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    parts = {"step_s": 1.0, "compute_s": 0.5, "exposed_communication_s": 0.1, "idle_s": 0.2, "optimizer_s": 0.1, "other_s": 0.1}
    transfer = {"operation": "all_reduce", "axis": "data", "phase": "backward", "count": 2.0, "payload_bytes": 8.0}
    load = {"elapsed_s": 1.0, "machine_s": 2.0, "own_s": 0.9}
    worker = {"parameters": 10, "peak_memory_bytes": 100, **parts, "load": load, "communication": [transfer]}
    write(run, "summary.json", step_time_s=1.0, parity_ok=True, parity_max_error=1e-9, workers=[worker, worker], **parts)
    summary = run.summary()
    assert summary is not None
    assert (summary.parity_verdict, summary.schedule_s, summary.spread) == ("equal", None, None)
    assert summary.workers[1].load == CpuLoad(1.0, 2.0, 0.9)
    assert runs_table.row(run)["parity_verdict"] == "equal"


def test_every_column_of_runs_is_a_field_of_a_record() -> None:
    names = {field.name for kind in (RunRecord, Summary, Labels) for field in fields(kind)}
    assert set(RUN_COLUMNS) - names == {"state", "backend", "trust", "utilisation_trust"}


@pytest.mark.parametrize(("device", "backend"), [("cpu", "gloo"), ("cuda", "nccl")])
def test_the_backend_of_a_run_follows_from_its_device(tmp_path: Path, device: str, backend: str) -> None:
    run = new_run(tmp_path, device=device)
    assert "backend" not in json.loads((run.path / "run.json").read_text())
    assert runs_table.row(run)["backend"] == backend


def test_records_are_read_by_key_too_as_when_they_were_dicts(tmp_path: Path) -> None:
    status: Any = new_run(tmp_path).status()
    assert status["state"] == "queued"
    with pytest.raises(KeyError):
        status["owner"]
