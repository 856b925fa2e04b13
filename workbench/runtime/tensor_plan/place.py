"""Where the code of a module fails with slices: the user's line, and the shapes that arrive there."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import workbench
from workbench.messages import listed
from workbench.sources.places import is_installed
from workbench.torch_private.dispatch import tree_leaves

_PACKAGES = tuple(Path(package.__file__ or "").parent for package in (torch, workbench))


@dataclass
class Calls:
    """The calls of modules in a forward pass."""

    running: list[tuple[str, list[torch.Size]]] = field(default_factory=list)
    """Path of each module that has not returned, and the shapes of its inputs; the innermost last."""

    returned: dict[str, list[torch.Size]] = field(default_factory=dict)
    """Path of a watched module → shapes of its outputs."""

    def place(self, error: Exception) -> str:
        """Returns where an exception was raised: ``my_model.py, line 7, where up returns (2, 32) and norm gets (2, 32)``."""
        own = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_own(Path(frame.filename))]
        line = f"{Path(own[-1].filename).name}, line {own[-1].lineno}, " if own else ""
        shapes = [f"{path} returns {_text(of_output)}" for path, of_output in self.returned.items()]
        path, of_input = self.running[-1] if self.running else ("", [])
        if path:
            shapes.append(f"{path} gets {_text(of_input)}")
        return f"{line}where {listed(shapes)}" if shapes else line.removesuffix(", ")


@contextmanager
def calls_of(root: nn.Module, watched: Sequence[str]) -> Iterator[Calls]:
    """Notes the calls of the modules inside ``root``.

    Args:
        watched: Paths of those whose outputs are noted.
    """
    calls = Calls()

    def enter(path: str) -> Any:
        return lambda module, args: calls.running.append((path, _shapes(args)))

    def leave(path: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            calls.running.pop()
            if path in watched:
                calls.returned[path] = _shapes(output)

        return hook

    with ExitStack() as hooks:
        for path, module in root.named_modules():
            hooks.callback(module.register_forward_pre_hook(enter(path)).remove)
            hooks.callback(module.register_forward_hook(leave(path)).remove)
        yield calls


def _is_own(path: Path) -> bool:
    return not is_installed(path) and not any(map(path.is_relative_to, _PACKAGES))


def _shapes(values: Any) -> list[torch.Size]:
    return [leaf.shape for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _text(shapes: list[torch.Size]) -> str:
    return listed([str(tuple(shape)) for shape in shapes]) or "no tensor"
