"""``workbench check-plugin``: what it runs of a file, what it says and how it exits."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from workbench import registry
from workbench.cli.main import cli

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
MISTAKEN = {"ok": (), "wrong": ("values /= workers.size()", "pass")}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("WORKBENCH_PLUGINS", os.environ.get("WORKBENCH_PLUGINS", ""))
    yield tmp_path
    registry._load.cache_clear()


def check(path: Path, code: str, *arguments: str) -> Result:
    path.write_text(code)
    return CliRunner().invoke(cli, ["check-plugin", str(path), *arguments], catch_exceptions=True)


def example(name: str) -> str:
    (code,) = re.findall(rf"^```python {name}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return str(code)


@pytest.mark.parametrize("mistaken", [pytest.param("ok", marks=pytest.mark.slow), "wrong"])
def test_a_strategy_is_run_and_its_mistakes_are_named(folder: Path, mistaken: str) -> None:
    code = example("local_sgd.py")
    code = code.replace(*MISTAKEN[mistaken]) if MISTAKEN[mistaken] else code
    result = check(folder / "local_sgd.py", code, "--only", "mlp - local_sgd", "--json")
    document = json.loads(result.stdout)
    training, inference = document["cases"]
    assert (inference["name"], inference["passed"]) == ("mlp - local_sgd - inference", True)
    assert training["passed"] == (mistaken == "ok"), training
    assert result.exit_code == (0 if mistaken == "ok" else 1)
    if mistaken == "wrong":
        (sentence,) = training["mistakes"]["parity"]
        assert re.match(r"parameter .* on replica \d differs by .*, allowed 1e-09; declared: trains replicas", sentence)
        assert training["mistakes"]["bytes"] == training["mistakes"]["parameters"] == []


def test_a_dataset_is_a_table_of_one_and_a_models_refusals_are_counted(folder: Path) -> None:
    result = check(folder / "rings.py", example("rings.py"))
    assert (result.exit_code, "1 of 1 cases passed" in result.stdout) == (0, True)
    listed = check(folder / "perceptron.py", example("perceptron.py"), "--list")
    assert listed.exit_code == 0
    assert "perceptron - layer\n" in listed.stdout
    assert re.search(r"\d+ × perceptron has no experts;", listed.stdout)


def test_what_is_no_python_file_is_refused(folder: Path) -> None:
    result = check(folder / "plugin.toml", "")
    assert str(result.exception) == f"{folder / 'plugin.toml'} is not a Python file; the name of a plugin file must end in .py"


@pytest.mark.parametrize(
    ("code", "arguments", "sentence"),
    [
        ("x = 1", (), "registers no plugin"),
        ("\n1 / 0", (), "cannot be executed, line 2: ZeroDivisionError"),
        ("def f(:", (), "cannot be executed, line 1: SyntaxError"),
        (example("rings.py"), ("--only", "mlp"), "no case name contains 'mlp'; --list shows all cases"),
        (example("rings.py").replace('"rings"', '"digits"'), (), "the dataset 'digits' already exists, in workbench.data.digits"),
    ],
)
def test_what_cannot_be_run_says_so_in_a_sentence(folder: Path, code: str, arguments: tuple[str, ...], sentence: str) -> None:
    result = check(folder / "plugin.py", code, *arguments)
    assert result.exit_code != 0
    assert sentence in str(result.exception)
    assert getattr(result.exception, "exit_code", None) == 2


def test_a_check_that_raises_is_a_case_that_fails(folder: Path) -> None:
    code = example("averaging.py").replace(
        "        batch, size = spec", '        raise KeyError("gone")\n        batch, size = spec'
    )
    result = check(folder / "averaging.py", code, "--only", "mlp - averaging")
    assert "KeyError: 'gone'" in result.stdout
    assert (result.exit_code, "0 of 2 cases passed" in result.stdout) == (1, True)
