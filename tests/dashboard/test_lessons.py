"""Lessons: every strategy has one, its spec can be run, and its scripts compute the same."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import workbench.strategies
from tests.helpers.pages import page
from workbench import registry
from workbench.analysis.limits import Evidence, limit
from workbench.dashboard.complexity import difference
from workbench.dashboard.lessons import FOLDER, files, lesson, names, overview, walkthrough
from workbench.errors import PluginWarning
from workbench.plan.resolve import plan
from workbench.registry import STRATEGIES

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
LESSONS = [name for name in names() if lesson(name).spec]


def test_every_strategy_has_a_lesson_and_every_file_is_one() -> None:
    taught = {strategy for name in LESSONS for strategy, _ in lesson(name).spec.split.items()}
    assert taught == set(STRATEGIES.names())
    strategies = Path(workbench.strategies.__path__[0])
    assert {*FOLDER.glob("*.md"), *strategies.glob("*/*.md")} == set(files().values())
    used = {script for name in LESSONS for script in lesson(name).scripts}
    assert {*FOLDER.glob("scripts/*.py"), *strategies.glob("*/scripts/*.py")} == used


def test_lessons_are_offered_in_the_order_of_their_strategies() -> None:
    assert names() == ["why", "data", "sharded", "layer", "pipeline", "tensor", "context", "expert", "combined"]


@pytest.mark.parametrize("name", names())
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


@pytest.fixture
def averaging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The strategy of docs/extending.md with its explanations, and its lesson, each a file of its own."""
    blocks = dict(re.findall(r"^```\w+ ?(\S*)\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL))
    _, explanations = re.findall(r"class Averaging\(.*?\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    order = "    apply_order = ApplyOrder.DATA\n"
    code = blocks["averaging.py"].replace(order, order + explanations).replace("base import", "base import Caption,")
    (tmp_path / "averaging.py").write_text(code, "utf-8")
    (tmp_path / "averaging.md").write_text(blocks["averaging.md"], "utf-8")
    monkeypatch.setenv("WORKBENCH_PLUGINS", "")
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    caches = (lesson, walkthrough, overview)  # of the strategies that there were
    for cached in caches:
        cached.cache_clear()
    registry.announce(tmp_path / "averaging.py")
    yield tmp_path / "averaging.md"
    registry._load.cache_clear()
    for cached in caches:
        cached.cache_clear()


def test_a_strategy_from_outside_brings_its_lesson(averaging: Path) -> None:
    assert names()[-3:] == ["expert", "averaging", "combined"]
    test = page("learn", lesson="averaging")
    assert test.header[0].value == "Averaging by hand"
    assert [heading.value for heading in test.subheader] == ["Concept", "Costs", "Formula", "Run"]
    assert "Averaging" in test.button_group(key="lesson").options
    row = overview().set_index("strategy").loc["Averaging"]
    assert (row["activations"], row["operations"] > 0) == (pytest.approx(0.5), True)
    assert row[["lines", "concepts"]].isna().all(), "it has no scripts"


def test_a_strategy_from_outside_explains_its_communication(averaging: Path) -> None:
    planned, all_moments = walkthrough("averaging").planned, walkthrough("averaging").moments
    assert all_moments[3].sentence == "The gradient of each parameter is averaged by one all-reduce."
    evidence = Evidence("averaging2", "step", 1.0, (0.5, 0.5), 0.0, 0.0, {"data": 0.4}, {}, spec=planned.spec)
    assert limit(evidence).advice == "Try split.data, which communicates during the backward pass."


@pytest.mark.parametrize("text", ["no heading", "+++\ntitle = 'A'\nshort = 'A'\n[spec.split.none]\nsize = 2\n+++\n", None])
def test_a_lesson_that_cannot_be_read_is_left_out_with_a_warning(averaging: Path, text: str | None) -> None:
    averaging.unlink() if text is None else averaging.write_text(text, "utf-8")
    with pytest.warns(PluginWarning, match=r"skipped the lesson .*averaging\.md"):
        assert names()[-2:] == ["expert", "combined"]


def test_the_overview_says_what_each_strategy_saves_and_communicates() -> None:
    frame = overview().set_index("strategy")
    assert frame.loc["Data", ["state", "activations"]].tolist() == pytest.approx([1.0, 0.5])
    assert frame.loc["Sharded data", "state"] == pytest.approx(0.5, abs=0.01)
    assert frame.loc["Sharded data", "communication_mib"] == pytest.approx(3 * frame.loc["Data", "communication_mib"], rel=0.01)
    assert frame["communication_mib"].idxmin() == "Layer"


def test_a_difference_counts_lines_and_names_what_is_new(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text("import torch\n\na = 1\nb = 2\n")
    imports = "import torch\nimport torch.distributed as dist\nfrom torch.distributed.fsdp import fully_shard\n"
    (tmp_path / "split.py").write_text(f"{imports}\na = 1\ndist.barrier()\n")
    found = difference(tmp_path / "plain.py", tmp_path / "split.py")
    assert (found.num_lines, found.num_added, found.num_removed) == (3, 3, 1)
    assert found.concepts == ("fully_shard", "barrier")
    assert "+dist.barrier()" in found.text.splitlines()
    assert "-b = 2" in found.text.splitlines()


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name == "tensor" else pytest.mark.long) for name in LESSONS],
)
def test_a_split_script_prints_the_losses_of_the_plain_one(name: str) -> None:
    plain, split = lesson(name).scripts
    num_workers = 4 if name == "combined" else 2
    alone = losses([sys.executable, str(plain)])
    assert len(alone) == 5
    assert losses([sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(num_workers), str(split)]) == alone


def losses(command: list[str]) -> list[str]:
    ended = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    # gloo may abort a process after its last line of work (torch 2.13: about one launch in nine).
    assert ended.returncode == 0 or "SIGABRT" in ended.stderr, ended.stderr
    assert "deprecated" not in ended.stderr
    return ended.stdout.splitlines()
