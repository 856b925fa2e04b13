"""The cost of a split in code: the difference between two scripts that compute the same."""

from __future__ import annotations

import ast
import difflib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Difference:
    """Difference of the split script from the plain one; blank lines do not count."""

    num_lines: int
    """Number of lines of the plain script."""

    num_added: int
    num_removed: int
    concepts: tuple[str, ...]
    """Names of torch.distributed that the split script uses, in their order."""

    text: str
    """Text of the difference in the format of ``diff``, with all lines."""


def difference(plain: Path, split: Path) -> Difference:
    """Returns the difference between two scripts."""
    old, new = (path.read_text(encoding="utf-8").splitlines() for path in (plain, split))
    lines = list(difflib.unified_diff(old, new, plain.name, split.name, n=max(len(old), len(new)), lineterm=""))
    body = [line for line in lines[3:] if line[1:].strip()]
    added, removed = (sum(line.startswith(sign) for line in body) for sign in "+-")
    num_lines = sum(bool(line.strip()) for line in old)
    text = "\n".join(lines[:2] + lines[3:])
    return Difference(num_lines, added, removed, concepts("\n".join(new)), text)


def concepts(source: str) -> tuple[str, ...]:
    """Returns what a script uses of torch's modules of parallelism, each once: imported names, and functions of ``dist``."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("torch.distributed", "torch.nn.parallel")):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "dist":
            names.append(node.attr)
    return tuple(dict.fromkeys(names))
