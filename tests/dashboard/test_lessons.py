"""Lessons: every strategy has one, its spec can be run, and its scripts compute the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.dashboard import complexity
from workbench.dashboard.lessons import FOLDER, NAMES, lesson, overview
from workbench.plan.resolve import plan
from workbench.registry import STRATEGIES

LESSONS = [name for name in NAMES if lesson(name).spec]


def test_every_strategy_has_a_lesson_and_every_file_is_one() -> None:
    taught = {strategy for name in LESSONS for strategy, _ in lesson(name).spec.split.items()}  # type: ignore[union-attr]
    assert taught == {"data", "layer", "pipeline", "tensor", "context", "expert"}
    assert taught <= set(STRATEGIES.names())
    assert {path.stem for path in FOLDER.glob("*.md")} == set(NAMES)
    used = {script for name in LESSONS for script in lesson(name).scripts}
    assert {path.name for path in complexity.SCRIPTS.glob("*.py")} == used


@pytest.mark.parametrize("name", NAMES)
def test_a_lesson_says_idea_cost_and_use_and_who_derived_its_formulas(name: str) -> None:
    one = lesson(name)
    headings = list(one.sections)
    assert headings[0] == "Concept"
    assert [h.startswith(("Costs", "When to use")) for h in headings[-2:]] == [True, True]
    assert all(one.sections.values())
    assert one.formulas
    for formula in one.formulas:
        assert formula.source
        assert formula.tex.count("{") == formula.tex.count("}")


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_can_be_run_here(name: str) -> None:
    spec = lesson(name).spec
    assert spec is not None
    assert plan(spec).num_workers <= 4


def test_the_overview_says_what_each_strategy_saves_and_moves() -> None:
    frame = overview().set_index("strategy")
    assert frame.loc["Data", ["state", "activations"]].tolist() == pytest.approx([1.0, 0.5])
    assert frame.loc["Sharded data", "state"] == pytest.approx(0.5, abs=0.01)
    assert frame.loc["Sharded data", "communication_mib"] == pytest.approx(3 * frame.loc["Data", "communication_mib"], rel=0.01)
    assert frame["communication_mib"].idxmin() == "Layer"


def test_a_difference_counts_lines_and_names_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(complexity, "SCRIPTS", tmp_path)
    (tmp_path / "plain.py").write_text("import torch\n\na = 1\nb = 2\n")
    imports = "import torch\nimport torch.distributed as dist\nfrom torch.distributed.fsdp import fully_shard\n"
    (tmp_path / "split.py").write_text(f"{imports}\na = 1\ndist.barrier()\n")
    found = complexity.difference("plain.py", "split.py")
    assert (found.num_lines, found.num_added, found.num_removed) == (3, 3, 1)
    assert found.concepts == ("fully_shard", "barrier")
    assert "+dist.barrier()" in found.text.splitlines()
    assert "-b = 2" in found.text.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("name", LESSONS)
def test_a_split_script_prints_the_losses_of_the_plain_one(name: str) -> None:
    plain, split = lesson(name).scripts
    num_workers = 4 if name == "combined" else 2
    alone = losses([sys.executable, plain])
    assert len(alone) == 5
    assert losses([sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(num_workers), split]) == alone


def losses(command: list[str]) -> list[str]:
    ended = subprocess.run(
        command, cwd=complexity.SCRIPTS, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=100
    )
    # gloo may abort a process after its last line of work (torch 2.13: about one launch in nine).
    assert ended.returncode == 0 or "SIGABRT" in ended.stderr, ended.stderr
    assert "deprecated" not in ended.stderr
    return ended.stdout.splitlines()
