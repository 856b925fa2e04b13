"""Private names of torch are used through ``workbench/torch_private`` alone."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.torch_private.entries import ENTRIES, PLACE

PLAIN_TORCH = {"scripts", "course"}
"""Folders of scripts and notebooks in plain torch that users copy, which cannot import the workbench."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def modules_elsewhere() -> dict[str, ast.Module]:
    package = PLACE.parent
    paths = {str(path.relative_to(package)): path for path in sorted(package.rglob("*.py")) if PLACE not in path.parents}
    return {name: ast.parse(p.read_text(encoding="utf-8")) for name, p in paths.items() if PLAIN_TORCH.isdisjoint(p.parts)}


def private_uses(tree: ast.Module) -> Iterator[str]:
    """Private names of torch: imported; as an attribute of anything but ``self`` that neither this file defines nor belongs to
    an import of something else; as the text of a known name, or a method of that name."""
    known = {name.rpartition(".")[2] for entry in ENTRIES.values() for name in entry.private_names}
    known = {name for name in known if is_private(name)}
    nodes = list(ast.walk(tree))
    imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    imported = {node: [getattr(node, "module", None) or alias.name for alias in node.names] for node in imports}
    of_torch = [node for node in imports if any(name.split(".")[0] == "torch" for name in imported[node])]
    others = {a.asname or a.name.split(".")[0] for node in imports if node not in of_torch for a in node.names}
    methods = {part for node in nodes if isinstance(node, ast.ClassDef) for part in node.body}
    defined = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    defined |= {n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store) and is_self(n.value)}
    for node in of_torch:
        for alias in node.names:
            name = alias.name if isinstance(node, ast.Import) else f"{node.module}.{alias.name}"
            if any(map(is_private, name.split("."))):
                yield f"line {node.lineno}: {name}"
    for node in nodes:
        if isinstance(node, ast.Attribute) and is_private(node.attr) and not is_self(node.value):
            root = ast.unparse(node).split(".")[0].split("[")[0].split("(")[0]
            if node.attr in known or (of_torch and node.attr not in defined and root not in others):
                yield f"line {node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if node.value in known or (re.fullmatch(r"torch(\.\w+)+", node.value) and "._" in node.value):
                yield f"line {node.lineno}: {node.value!r}"
        elif isinstance(node, ast.FunctionDef) and node.name in known and node in methods:
            yield f"line {node.lineno}: def {node.name}"


def is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def overrides(tree: ast.Module, module: Any) -> Iterator[str]:
    """Private attributes of classes of torch that a class of this module replaces."""
    for node in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        written = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
        written |= {ast.unparse(part.target) for part in node.body if isinstance(part, ast.AnnAssign)}
        for base in getattr(module, node.name).__mro__[1:]:
            if base.__module__.split(".")[0] == "torch":
                yield from (f"{node.name}.{name} of {base.__name__}" for name in written & set(vars(base)) if is_private(name))


@pytest.mark.parametrize(
    "text",
    [
        "from torch.distributed import _functional_collectives",
        "import torch.distributed._tools.mem_tracker",
        "from torch.nn.modules.batchnorm import _BatchNorm",
        "import torch\ntorch._C._current_graph_task_id()",
        "from torch import nn\nnn.Linear(1, 1)._parameters",
        "def f(mesh):\n    return mesh._flatten('a')",
        "class Group:\n    def _start_coalescing(self): ...",
        "METHODS = ('_allgather_base',)",
        "PRELOADED = ('torch.distributed._tools.mem_tracker',)",
    ],
)
def test_rule_finds(text: str) -> None:
    assert list(private_uses(ast.parse(text)))


def test_private_names_are_used_through_one_place() -> None:
    found = [f"workbench/{name}, {use}" for name, tree in modules_elsewhere().items() for use in private_uses(tree)]
    assert found == [], "give each an entry in workbench/torch_private, with a check in tests/torch_private"


def test_no_class_replaces_private_attributes_of_torch() -> None:
    found = []
    for name, tree in modules_elsewhere().items():
        sources = [getattr(node, "module", None) or node.names[0].name for node in tree.body if hasattr(node, "names")]
        if any(source.split(".")[0] == "torch" for source in sources):
            module = importlib.import_module("workbench." + name.removesuffix(".py").replace("/", "."))
            found += [f"workbench/{name}: {what}" for what in overrides(tree, module)]
    assert found == [], "let the class derive from one in workbench/torch_private that gives it a public name"
