"""Writes the reference pages that follow from the code: ``python docs/generate.py``.

``docs/tables.md`` is made from the table definitions, ``docs/cli.md`` from the commands, ``docs/api.md`` from docstrings.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click

import workbench
from workbench import errors
from workbench.cli.main import EXIT_CODES, cli
from workbench.store.columns import ROWS, RUNS, TABLES

DOCS = Path(__file__).parent
HEADER = "`python docs/generate.py` writes this page from the code; a test fails when it is stale.\n"
ANALYSIS, CHARTS = "workbench.analysis", "workbench.charts"


def tables_page() -> str:
    """The column dictionary."""
    lines = ["# Columns of the tables\n", HEADER, _ABOUT_TABLES]
    for name, columns in {"runs": RUNS, **TABLES}.items():
        lines += [f"## {name}\n", f"{ROWS[name]}\n"]
        rows = [(f"`{column}`", c.kind, c.unit, c.meaning) for column, c in columns.items()]
        lines.append(_table(("column", "type", "unit", "meaning"), rows))
    return "\n".join(lines)


_ABOUT_TABLES = """\
`workbench export RUN… --to DIR` writes each table as one file, `--format csv` or `parquet`, with these columns in this order; so
do `wb.runs()` and the methods of a `Run` (`run.steps()`, `run.memory()`, …) in Python. Names carry the unit. An empty value was
not measured or does not apply; it is never 0. Types are Arrow's. Times ending in `_s` without another meaning are seconds on the
run's own clock, which starts at 0 on rank 0 before the first step and is one for all workers. [glossary.md](glossary.md) explains
the words, [time.md](time.md) and [memory.md](memory.md) how the figures are measured.
"""


def cli_page() -> str:
    """The reference of the command line."""
    lines = ["# Command line\n", HEADER, f"{cli.help}\n", _ABOUT_CLI]
    lines.append(_table(("exit code", "meaning"), [(str(code), meaning) for code, meaning in EXIT_CODES.items()]))
    context = click.Context(cli, info_name="workbench")
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        inner = click.Context(command, context, info_name=name)
        usage = " ".join(("workbench", name, *command.collect_usage_pieces(inner)))
        lines += [f"## {name}\n", f"```\n{usage}\n```\n", f"{_markdown(inspect.cleandoc(command.help or ''))}\n"]
        options = [option.get_help_record(inner) for option in command.params if isinstance(option, click.Option)]
        if rows := [_option(*record) for record in options if record]:
            lines.append(_table(("option", "default", "meaning"), rows))
    return "\n".join(lines)


_ABOUT_CLI = """\
`RUN` is the id of a run, a part of an id that is unique, or `latest`. The store is `$WORKBENCH_HOME`, by default the platform's
user data directory ([store.md](store.md)). `workbench COMMAND --help` prints the same. With `--json`, a command prints one JSON
document on stdout and nothing else there. `workbench --version` prints the version.
"""


def _option(names: str, text: str) -> tuple[str, str, str]:
    """An option with its default or bounds, which click puts in brackets behind its help."""
    parts = re.fullmatch(r"(.*?)(?:\s*\[([^\]]*)\])?", text, re.DOTALL)
    assert parts is not None
    return f"`{names}`", (parts[2] or "").removeprefix("default: "), parts[1]


def api_page() -> str:
    """The public names with the first sentence of each one's docstring."""
    lines = ["# Python API\n", HEADER, _ABOUT_API]
    lines += ["## workbench\n", "`import workbench as wb`\n", _names(workbench, workbench.__all__, with_members=True)]
    lines += ["## workbench.widgets\n", "Widgets for notebooks: [notebooks.md](notebooks.md).\n"]
    lines.append(_names(workbench.widgets, workbench.widgets.__all__))
    lines += ["## workbench.errors\n", "All are subclasses of `WorkbenchError`, but for the warning.\n"]
    lines.append(
        _names(errors, [name for name, value in vars(errors).items() if getattr(value, "__module__", "") == errors.__name__])
    )
    lines += [f"## {ANALYSIS}\n", "Functions that return a DataFrame, by module.\n"]
    lines.append(_by_module(ANALYSIS, lambda name, value: inspect.signature(value).return_annotation == "pd.DataFrame"))
    lines += [f"## {CHARTS}\n", "Functions that return an Altair chart, by module, and how to show one.\n"]
    lines.append(_by_module(CHARTS, lambda name, value: name.endswith(("_chart", "_charts")) or name in ("dressed", "svg")))
    lines += ["## Plugins\n", "What a plugin imports; [extending.md](extending.md) shows one of each kind.\n"]
    for module, names in sorted(plugin_imports().items()):
        if module == errors.__name__:
            continue
        lines += [
            f"### {module}\n",
            _names(importlib.import_module(module), sorted(names), with_members=module.endswith(".base")),
        ]
    return "\n".join(lines)


_ABOUT_API = """\
The names on this page are public: a change of one is listed in [CHANGELOG.md](../CHANGELOG.md). Everything else may change at any
time.
"""


def plugin_imports() -> dict[str, set[str]]:
    """The names that the examples of docs/extending.md import, by module."""
    found: dict[str, set[str]] = {}
    for code in re.findall(r"^```python[^\n]*\n(.*?)^```$", (DOCS / "extending.md").read_text("utf-8"), re.MULTILINE | re.DOTALL):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("workbench."):
                found.setdefault(node.module, set()).update(alias.name for alias in node.names)
    return found


def _by_module(package: str, is_public: Callable[[str, Any], bool]) -> str:
    parts = []
    for info in sorted(pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."), key=lambda i: i.name):
        module = importlib.import_module(info.name)
        names = [name for name, value in vars(module).items() if inspect.isfunction(value) and value.__module__ == info.name]
        if names := [name for name in names if not name.startswith("_") and is_public(name, getattr(module, name))]:
            parts.append(f"### {info.name}\n\n{_names(module, names)}")
    return "\n".join(parts)


def _names(module: ModuleType, names: Iterable[str], with_members: bool = False) -> str:
    rows = []
    for name in names:
        value = getattr(module, name, None) or importlib.import_module(f"{module.__name__}.{name}")
        rows.append((f"`{name}{_call(value)}`", _first_sentence(value)))
        if with_members and inspect.isclass(value):
            rows += [(f"`{name}.{member}`", sentence) for member, sentence in _members(value)]
    return _table(("name", "meaning"), rows)


def _members(cls: type) -> Iterator[tuple[str, str]]:
    """Fields, methods and properties of a class that its own docstrings describe."""
    for name, field in getattr(cls, "model_fields", {}).items():
        if name != "root":
            yield name, _first_sentence(field.annotation) if field.description is None else _sentence(field.description)
    for name, value in vars(cls).items():
        described = value.fget if isinstance(value, property) else value
        if not name.startswith("_") and inspect.isfunction(described) and described.__doc__:
            yield name + (_call(value) if inspect.isfunction(value) else ""), _first_sentence(described)


def _call(value: Any) -> str:
    """How a function is called, without types."""
    if not inspect.isfunction(value):
        return ""
    parameters = [p.replace(annotation=p.empty) for p in inspect.signature(value).parameters.values() if p.name != "self"]
    # A function's repr has its address, which differs from process to process.
    return re.sub(r"<function .*? at 0x\w+>", "…", str(inspect.Signature(parameters)))


def _first_sentence(value: Any) -> str:
    return _sentence((inspect.getdoc(value) or "").split("\n\n")[0])


def _sentence(text: str) -> str:
    return _markdown(re.split(r"(?<=\.)(?<!al\.)\s", " ".join(text.split()))[0])


def _markdown(text: str) -> str:
    return text.replace("``", "`")


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *([" ".join(cell.split()).replace("|", r"\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


PAGES = {"tables.md": tables_page, "cli.md": cli_page, "api.md": api_page}


if __name__ == "__main__":
    for file, page in PAGES.items():
        (DOCS / file).write_text(page(), encoding="utf-8")
