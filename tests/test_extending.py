"""Plugins from outside: what docs/extending.md shows works as it stands, as local files and as an installed package."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from workbench.cli.main import cli

ROOT = Path(__file__).parents[1]
EXAMPLE = re.compile(r"^```python (\w+\.py)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FAMILIES = {
    "averaging": "strategies",
    "local_sgd": "strategies",
    "eager_1f1b": "schedules",
    "perceptron": "models",
    "rings": "data",
}
LOCAL_FILES = {"WORKBENCH_PLUGINS": ",".join(f"{name}.py" for name in FAMILIES)}


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A directory with the examples of the page, each under its name."""
    for name, code in EXAMPLE.findall((ROOT / "docs" / "extending.md").read_text()):
        (tmp_path / name).write_text(code)
    return tmp_path


def python(here: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([environment.pop("path", ""), str(ROOT), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    env = {**os.environ, **environment, "PYTHONPATH": path, "WORKBENCH_HOME": str(here / "store")}
    return subprocess.run([sys.executable, *arguments], cwd=here, env=env, capture_output=True, text=True)


def passed(result: subprocess.CompletedProcess[str]) -> int:
    """How many tests passed, none having failed."""
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    found = re.search(r"(\d+) passed", result.stdout)
    return int(found[1]) if found else 0


def suite(here: Path, select: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return python(here, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_plugins.py", "-k", select, **environment)


def test_the_page_has_an_example_of_each_family_and_a_test(here: Path) -> None:
    assert {path.stem for path in here.glob("*.py")} == {*FAMILIES, "test_plugins"}


@pytest.mark.long
@pytest.mark.timeout(300)
def test_an_installed_package_passes_the_suite(here: Path) -> None:
    """A package as pip leaves it: its modules and, beside them, what it says of itself."""
    site = here / "site"
    (site / "mine-1.0.dist-info").mkdir(parents=True)
    (site / "mine-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    entries = [f"[workbench.{family}]\n{name} = {name}\n" for name, family in FAMILIES.items()]
    (site / "mine-1.0.dist-info" / "entry_points.txt").write_text("\n".join(entries))
    for name in FAMILIES:
        (here / f"{name}.py").rename(site / f"{name}.py")

    assert passed(suite(here, "summary or (perceptron and averaging) or (transformer and eager_1f1b)", path=str(site))) >= 5


@pytest.mark.long
@pytest.mark.timeout(900)
def test_local_files_pass_all_of_the_suite(here: Path) -> None:
    assert passed(suite(here, "", **LOCAL_FILES)) > 70


@pytest.mark.timeout(180)
def test_a_run_of_local_files_finds_them_in_its_workers(here: Path) -> None:
    arguments = (
        "run --json --model perceptron --dataset rings --split averaging=2 --set train.num_steps=3 --set baseline.mode=none"
    )
    result = python(here, "-m", "workbench.cli.main", *arguments.split(), **LOCAL_FILES)
    assert result.returncode == 0, result.stdout + result.stderr
    (row,) = (row for row in json.loads(result.stdout)["runs"] if row["split"] == "averaging2")
    assert row["parity_ok"]


def test_a_plugin_that_fails_is_left_out_with_a_warning_and_the_others_stay(here: Path) -> None:
    (here / "broken.py").write_text("raise ValueError('wrong on purpose')")
    result = python(here, "-m", "workbench.cli.main", "datasets", WORKBENCH_PLUGINS="broken.py,nowhere.py,rings.py")
    assert result.returncode == 0
    assert "\nrings  Points of the plane" in result.stdout
    assert "broken.py' (WORKBENCH_PLUGINS): ValueError: wrong on purpose" in result.stderr
    assert "nowhere.py' (WORKBENCH_PLUGINS): cannot read nowhere.py" in result.stderr


def test_the_page_of_what_works_with_what_is_not_stale() -> None:
    made = CliRunner().invoke(cli, ["strategies", "--markdown"]).output
    assert (ROOT / "docs" / "strategies.md").read_text() == made, "workbench strategies --markdown > docs/strategies.md"


def test_the_strategies_are_listed_with_what_works() -> None:
    listing = CliRunner().invoke(cli, ["strategies"]).output
    assert re.search(r"^context +–¹", listing, re.MULTILINE)
    assert re.search(r"^1 the model cannot be split along the sequence", listing, re.MULTILINE)
