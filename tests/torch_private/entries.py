"""The entries of ``workbench/torch_private`` and the checks of them, by name."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PLACE = ROOT / "workbench" / "torch_private"
FIELDS = ("Private", "Upstream", "Checked", "Reason")


@dataclass(frozen=True)
class Entry:
    """A public name of the place and what its docstring says."""

    module: str
    name: str
    fields: dict[str, str]

    @property
    def private_names(self) -> list[str]:
        return [name.strip() for name in self.fields.get("Private", "").split(",")]

    def load(self) -> Any:
        return getattr(importlib.import_module(f"workbench.torch_private.{self.module}"), self.name)

    def users(self) -> list[str]:
        """Files of the package that import it."""
        wanted = re.compile(rf"from workbench\.torch_private\.{self.module} import (\([^)]*\b|[^\n]*\b){self.name}\b")
        files = {path: path.read_text(encoding="utf-8") for path in sorted(PLACE.parent.rglob("*.py"))}
        return [str(path.relative_to(ROOT)) for path, text in files.items() if wanted.search(text)]


def entries() -> dict[str, Entry]:
    found = {}
    for path in sorted(PLACE.glob("[!_]*.py")):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        for statement, following in zip(body, [*body[1:], None], strict=True):
            if isinstance(statement, ast.FunctionDef | ast.ClassDef):
                name, text = statement.name, ast.get_docstring(statement) or ""
            elif isinstance(statement, ast.Assign | ast.AnnAssign):
                target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
                is_documented = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
                name, text = ast.unparse(target), inspect.cleandoc(following.value.value) if is_documented else ""
            else:
                continue
            lines = re.findall(rf"^({'|'.join(FIELDS)}): (.*(?:\n +.*)*)", text, re.MULTILINE)
            found[f"{path.stem}.{name}"] = Entry(path.stem, name, {key: " ".join(value.split()) for key, value in lines})
    return found


ENTRIES = entries()
CHECKS: dict[str, Callable[[Any], None]] = {}


def check(*names: str) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Registers the check of an entry, which gets what the entry stands for."""

    def register(function: Callable[[Any], None]) -> Callable[[Any], None]:
        CHECKS.update(dict.fromkeys(names, function))
        return function

    return register


def first_parameters(function: Any, *expected: str) -> None:
    assert tuple(inspect.signature(function).parameters)[: len(expected)] == expected
