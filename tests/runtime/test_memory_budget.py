"""A memory budget: what does not fit fails as it would on a device of that size, and the rest goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from workbench.errors import SpecError
from workbench.launch.environment import baseline_key
from workbench.spec import RunSpec
from workbench.spec.files import dumps, load

BUDGET = 8 * 2**20
SMALL = ["--set", "model.num_layers=2", "--set", "model.hidden_dim=64", "--set", "train.num_steps=2",
         "--set", "measure.parity=false", "--set", "measure.memory_budget_bytes=8MiB"]  # fmt: skip


def workbench(store: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "workbench.cli.main", *args]
    environment = {**os.environ, "WORKBENCH_HOME": str(store), "COLUMNS": "120"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL)


def rows(result: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return list(json.loads(result.stdout)["runs"])


@pytest.mark.slow
def test_what_does_not_fit_on_one_worker_fits_on_two(tmp_path: Path) -> None:
    split = ["--split", "pipeline=2,num_microbatches=16"]
    result = workbench(tmp_path, "run", *SMALL, *split)
    assert result.returncode == 0, result.stderr
    assert "Exceeds 8.00 MiB per worker: single. Fits: pp2-1f1b-m16." in " ".join(result.stdout.split())
    again = workbench(tmp_path, "run", *SMALL, *split, "--json")
    *baselines, run = rows(again)
    assert [row["state"] for row in baselines] == ["failed"] * len(baselines)
    assert run["state"] == "finished"
    assert run["speedup"] is None
    assert 0 < run["peak_memory_bytes"] <= BUDGET
    assert sum(1 for path in tmp_path.glob("runs/*single*")) == len(baselines), "what failed for its budget is not run again"


def test_a_run_over_its_budget_fails_with_what_was_alive(tmp_path: Path) -> None:
    result = workbench(tmp_path, "run", *SMALL, "--set", "baseline.mode=none", "--split", "data=2")
    assert result.returncode == 1
    (path,) = tmp_path.glob("runs/*/error.json")
    error = json.loads(path.read_text())
    memory = error["memory"]
    assert memory["budget_bytes"] == BUDGET < memory["bytes"] == sum(memory["by_category"].values())
    assert error["rank"] in (0, 1)
    assert error["step"] == 3, "after the warm-up, before any timed step"
    assert memory["event"].startswith("forward of ")
    assert memory["event"] in error["exception"]
    assert len(memory["largest_tensors"]) == 20
    assert "train.checkpointing = full" in error["advice"]
    said = " ".join(result.stdout.split())
    assert "layer0.feedforward.up" in said
    assert error["advice"] in said


@pytest.mark.parametrize(("given", "size"), [("64MiB", 64 * 2**20), ("0.5 GiB", 2**29), (1000, 1000), ("16KiB", 2**14)])
def test_a_budget_is_bytes_or_has_a_unit(given: Any, size: int, tmp_path: Path) -> None:
    spec = RunSpec(measure={"memory_budget_bytes": given})
    assert spec.measure.memory_budget_bytes == size
    (tmp_path / "spec.toml").write_text(dumps(spec))
    assert load(tmp_path / "spec.toml") == spec


@pytest.mark.parametrize("given", ["64MB", "MiB", "-1MiB", 0])
def test_another_budget_is_refused(given: Any) -> None:
    with pytest.raises(SpecError, match=r"measure\.memory_budget_bytes"):
        RunSpec(measure={"memory_budget_bytes": given})


def test_a_baseline_is_reused_under_the_same_budget_alone() -> None:
    without, small, large = (
        baseline_key(RunSpec(measure=m)) for m in ({}, {"memory_budget_bytes": 1}, {"memory_budget_bytes": 2})
    )
    assert len({without, small, large}) == 3
