"""No module is left over: a command's output had vanished in a merge while the module that printed it stayed."""

from __future__ import annotations

import re
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
FOUND_BY_FOLDER = re.compile(r"workbench\.(strategies|strategies\.pipeline\.schedules|models|data|testing|dashboard\.pages)\.\w+")
"""Plugins and pages, and what the authors of plugins import."""


def uncalled() -> set[str]:
    """Modules that neither the package imports or names nor a page, a notebook, a document or a benchmark uses."""
    graph = grimp.build_graph("workbench")
    leaves = {m for m in graph.modules if not graph.find_children(m) and not graph.find_modules_that_directly_import(m)}
    files = [path for pattern in ("workbench/**/*.py", "notebooks/*.ipynb", "docs/*.md", "docs/*.py", "benchmarks/*.py", "*.toml")
             for path in ROOT.glob(pattern)]  # fmt: skip
    texts = {path: path.read_text(encoding="utf-8") for path in files}

    def is_named(module: str) -> bool:
        package, _, name = module.rpartition(".")
        own = ROOT / f"{module.replace('.', '/')}.py"
        wanted = re.compile(rf"{re.escape(module)}\b|from {re.escape(package)} import [^\n]*\b{name}\b|\b{name}\.py\b")
        return any(wanted.search(text) for path, text in texts.items() if path != own)

    return {m for m in leaves if not FOUND_BY_FOLDER.fullmatch(m) and not is_named(m)}


def test_every_module_has_a_caller() -> None:
    assert uncalled() == set()
