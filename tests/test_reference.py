"""The reference pages: each follows from the code and names everything that is public."""

from __future__ import annotations

import re

import click
import pytest

import workbench
from docs.generate import DOCS, PAGES, plugin_imports
from workbench.cli.main import cli
from workbench.errors import WorkbenchError
from workbench.store.tables import RUNS, TABLES


@pytest.mark.parametrize("file", PAGES)
def test_a_generated_page_is_not_stale(file: str) -> None:
    assert (DOCS / file).read_text(encoding="utf-8") == PAGES[file](), "python docs/generate.py"


def test_every_public_name_is_listed() -> None:
    listed = set(re.findall(r"^\| `(\w+)", (DOCS / "api.md").read_text(encoding="utf-8"), re.MULTILINE))
    public = {*workbench.__all__, *workbench.widgets.__all__, *(error.__name__ for error in WorkbenchError.__subclasses__())}
    assert public | set().union(*plugin_imports().values()) <= listed


def test_every_column_and_option_has_a_meaning() -> None:
    for table, columns in {"runs": RUNS, **TABLES}.items():
        for name, column in columns.items():
            assert column.meaning.endswith("."), f"{table}.{name}"
            assert not name.endswith("_s") or column.unit == "s" or "_per_s" in name, f"{table}.{name}"
            assert not name.endswith("bytes") or column.unit == "bytes", f"{table}.{name}"
    context = click.Context(cli)
    for command in cli.list_commands(context):
        for option in getattr(cli.get_command(context, command), "params", ()):
            assert not isinstance(option, click.Option) or option.help, f"{command} {option.name}"
