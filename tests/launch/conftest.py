"""Supervisors of a test, ended with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.process import wait_until
from tests.helpers.supervisors import Supervisors, is_gone


@pytest.fixture
def supervisors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisors]:
    made = Supervisors(tmp_path)
    monkeypatch.setenv("WORKBENCH_DEVICE_QUEUE", str(made.queue))
    yield made
    workers = [
        worker["pid"]
        for path in tmp_path.glob("runs/*/status.json")
        for worker in json.loads(path.read_text()).get("workers", [])
    ]
    for process in made.started:
        process.kill()  # the workers' lifeline ends with it
        process.wait()
    wait_until(lambda: all(map(is_gone, workers)))
