"""The reference pages: each follows from the code and names everything that is public."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

import workbench
from docs.generate import DOCS, PAGES, plugin_imports
from workbench.analysis.comparison import PARTS
from workbench.analysis.memory import CATEGORIES
from workbench.cli.main import cli
from workbench.errors import WorkbenchError
from workbench.plan.mesh import AXES
from workbench.plan.parity import VERDICTS
from workbench.store.archive import _JSON
from workbench.store.columns import RUNS, TABLES
from workbench.store.run_status import TERMINAL

ROOT = DOCS.parent


@pytest.mark.timeout(300)  # it imports the whole package: 5 s of processor time, a minute on a busy machine
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


def test_every_page_is_linked_from_the_readme_and_every_link_leads_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]
    links = {page: re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")) for page in pages}
    for page, targets in links.items():
        for target in targets:
            assert (page.parent / target).exists(), f"{page.name} links {target}"
    assert {path.name for path in DOCS.glob("*.md")} <= {Path(target).name for target in links[ROOT / "README.md"]}


def test_the_glossary_has_every_verdict_axis_category_part_and_kind_of_step() -> None:
    words = set(re.findall(r"\*\*([\w -]+)\*\*", (DOCS / "glossary.md").read_text(encoding="utf-8")))
    parts = {part.replace("_", " ") for part in (*CATEGORIES, *PARTS)}
    assert {*VERDICTS, *parts, "warmup", "timed", "trace", "memory", "profiler"} <= words
    assert all(f"`{axis}`" in (DOCS / "glossary.md").read_text(encoding="utf-8") for axis in AXES)


def test_the_page_of_the_store_names_every_file_and_state() -> None:
    page = (DOCS / "store.md").read_text(encoding="utf-8")
    assert [name for name in (*TERMINAL, *(f"{table}/" for table in TABLES)) if f"`{name}`" not in page] == []
    assert set(_JSON) <= set(re.findall(r"^\| `(\w+\.json)` \|", page, re.MULTILINE))
