"""The JSON files of a run directory: typed, versioned, and readable as earlier versions wrote them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.run_directory import new_run
from workbench.errors import DamagedRunError
from workbench.store.directory import RunDirectory
from workbench.store.records import Labels, RunState

READERS = {
    "run.json": RunDirectory.record,
    "status.json": RunDirectory.status,
    "environment.json": RunDirectory.environment,
    "labels.json": RunDirectory.labels,
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


def test_records_are_read_by_key_too_as_when_they_were_dicts(tmp_path: Path) -> None:
    status: Any = new_run(tmp_path).status()
    assert status["state"] == "queued"
    with pytest.raises(KeyError):
        status["owner"]
