"""Follows the outputs of the modules that may be cut through one forward pass."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from workbench.runtime.tensor_plan.trial import Call
from workbench.strategies.tensor.kinds_modules import can_be_cut
from workbench.torch_private.dispatch import TorchDispatchMode, tree_leaves, tree_map

_VALUE_TAGS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
"""Tags of operations whose number or shape depends on values."""
OUTPUT = ""
"""In the place of a path: the output of the whole module."""


@dataclass
class Flow:
    """Which layers, norms and tables use the outputs of which, with nothing of that kind in between."""

    order: list[str] = field(default_factory=list)
    """Paths in the order of their first calls."""

    sources: dict[str, set[str]] = field(default_factory=dict)
    """Path, or ``OUTPUT`` → the modules from whose outputs its input is computed."""

    elements: dict[str, int] = field(default_factory=dict)
    """Path → number of elements of the first tensor that it was first given."""

    calls: dict[str, Call] = field(default_factory=dict)
    """Path of a module with submodules → its first call."""

    branched_on: set[str] = field(default_factory=set)
    """Modules whose outputs decide what the code does next, or the shape of a tensor."""

    def readers(self, path: str) -> set[str]:
        """Returns the modules that use the output of one."""
        return {reader for reader, sources in self.sources.items() if path in sources}


def flow_of(root: nn.Module, call: Call) -> Flow:
    """Returns the flow between the modules of a module in one forward pass."""
    flow, mode = Flow(), _Following()

    def enter(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            if path not in flow.sources:
                flow.order.append(path)
            flow.sources.setdefault(path, set()).update(mode.origins((args, kwargs)))

        return hook

    def leave(path: str) -> Callable[..., None]:
        return lambda module, args, output: mode.assign(output, {path})

    def note(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            if path not in flow.calls:
                flow.calls[path] = Call(tree_map(_kept, args), tree_map(_kept, kwargs))

        return hook

    with ExitStack() as hooks, torch.enable_grad(), mode:
        for path, module in root.named_modules():
            if can_be_cut(module):
                hooks.callback(module.register_forward_pre_hook(enter(path), with_kwargs=True).remove)
                hooks.callback(module.register_forward_pre_hook(partial(_count, flow.elements, path), with_kwargs=True).remove)
                hooks.callback(module.register_forward_hook(leave(path)).remove)
            elif path and next(module.children(), None) is not None:
                hooks.callback(module.register_forward_pre_hook(note(path), with_kwargs=True).remove)
        flow.sources[OUTPUT] = mode.origins(call(root)[0])
    flow.branched_on = mode.branched_on
    return flow


def elements_of(root: nn.Module, call: Call) -> dict[str, int]:
    """Returns the elements of ``Flow`` alone."""
    elements = dict[str, int]()
    with ExitStack() as hooks, torch.no_grad():
        for path, module in root.named_modules():
            if can_be_cut(module):
                hook = partial(_count, elements, path)
                hooks.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        call(root)
    return elements


def _count(elements: dict[str, int], path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
    given = (value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor))
    elements.setdefault(path, next(given).numel())


def _kept(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    return copy.deepcopy(value)


class _Following(TorchDispatchMode):
    """Notes for every storage from which modules' outputs it is computed."""

    def __init__(self) -> None:
        super().__init__()
        self._origins: dict[StorageWeakRef, set[str]] = {}
        self.branched_on: set[str] = set()
        """As of ``Flow``."""
        self._kept: list[Tensor] = []  # a freed storage could be mistaken for a new one

    def assign(self, values: Any, origins: Iterable[str]) -> None:
        """Sets the origins of all tensors in the values."""
        for tensor in tree_leaves(values):
            if isinstance(tensor, Tensor):
                self._kept.append(tensor)
                self._origins[StorageWeakRef(tensor.untyped_storage())] = set(origins)

    def origins(self, values: Any) -> set[str]:
        """Returns the origins of all tensors in the values."""
        tensors = (value for value in tree_leaves(values) if isinstance(value, Tensor))
        return {o for tensor in tensors for o in self._origins.get(StorageWeakRef(tensor.untyped_storage()), ())}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        origins = self.origins((args, kwargs))
        tensors = [value for value in tree_leaves(result) if isinstance(value, Tensor)]
        if not tensors or _VALUE_TAGS.intersection(func.tags):
            self.branched_on |= origins
        for tensor in tensors:
            self._kept.append(tensor)
            self._origins.setdefault(StorageWeakRef(tensor.untyped_storage()), set()).update(origins)
        return result
