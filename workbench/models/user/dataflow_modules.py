"""Follows tensors through one forward pass of a module: which outputs and parameters the code between its units reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from workbench.torch_private.dispatch import TorchDispatchMode, TreeSpec, tree_flatten, tree_leaves

OUTPUT = 10**9
"""Position of the output of the whole module among the readers of a tensor: after all units."""


@dataclass(frozen=True)
class Origin:
    """Where a tensor comes from: a leaf of the output of a unit, or a parameter."""

    unit: int
    """Index of the unit; −1 for a parameter."""

    leaf: int | str
    """Index among the tensors of the output, or the name of the parameter."""


@dataclass
class Dataflow:
    """One forward pass of a module."""

    structures: list[tuple[TreeSpec, list[Any]]] = field(default_factory=list)
    """The output of each unit: its structure, and its leaves; tensors are on the device of the pass."""

    readers: dict[Origin, set[int]] = field(default_factory=dict)
    """Output of a unit, or parameter → the units whose inputs are computed from it outside of units; ``OUTPUT`` is the output
    of the module."""

    output: Any = None

    origins: dict[str, frozenset[Origin]] = field(default_factory=dict)
    """Origins of the outputs of the watched modules."""


def follow(root: nn.Module, units: Sequence[str], inputs: Any, watched: Sequence[str] = ()) -> Dataflow:
    """Runs a forward pass without gradients and returns what the code between the units reads.

    A tensor is what its storage is: views of an output, and what is written into it, count as that output.

    Args:
        watched: Paths of modules that are no units, whose outputs' origins are noted.
    """
    flow, mode = Dataflow(), _Following()
    for name, parameter in root.named_parameters():
        mode.set(parameter, frozenset([Origin(-1, name)]))

    def read(values: Any, reader: int) -> None:
        for origin in mode.origins(tree_leaves(values)):
            flow.readers.setdefault(origin, set()).add(reader)

    def enter(index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            assert mode.is_outside, f"unit {units[index]} is called inside another unit"
            read((args, kwargs), index)
            mode.is_outside = False

        return hook

    def leave(index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            mode.is_outside = True
            leaves, structure = tree_flatten(output)
            flow.structures.append((structure, leaves))
            for position, leaf in enumerate(leaves):
                if isinstance(leaf, Tensor):
                    mode.set(leaf, frozenset([Origin(index, position)]))

        return hook

    def watch(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            flow.origins[path] = mode.origins(tree_leaves(output))

        return hook

    with ExitStack() as hooks, torch.no_grad(), mode:
        for path in watched:
            hooks.callback(root.get_submodule(path).register_forward_hook(watch(path)).remove)
        for index, path in enumerate(units):
            unit = root.get_submodule(path)
            hooks.callback(unit.register_forward_pre_hook(enter(index), with_kwargs=True).remove)
            hooks.callback(unit.register_forward_hook(leave(index)).remove)
        flow.output = root(inputs)
        read(flow.output, OUTPUT)
    return flow


def differentiable(root: nn.Module, units: Sequence[str], inputs: Any) -> frozenset[Origin]:
    """Returns the outputs of units that have a gradient, found in a forward pass."""
    found = set[Origin]()

    def leave(index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            leaves = enumerate(tree_leaves(output))
            found.update(Origin(index, i) for i, leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad)

        return hook

    with ExitStack() as hooks:
        for index, path in enumerate(units):
            hooks.callback(root.get_submodule(path).register_forward_hook(leave(index)).remove)
        root(inputs)
    return frozenset(found)


class _Following(TorchDispatchMode):
    """Notes the origins of every tensor that is computed outside of units."""

    def __init__(self) -> None:
        super().__init__()
        self.is_outside = True
        self._origins: dict[StorageWeakRef, frozenset[Origin]] = {}
        self._kept: list[Tensor] = []  # a freed storage could be mistaken for a new one

    def set(self, tensor: Tensor, origins: frozenset[Origin]) -> None:
        self._kept.append(tensor)
        self._origins[StorageWeakRef(tensor.untyped_storage())] = origins

    def origins(self, values: Iterable[Any]) -> frozenset[Origin]:
        """Returns the origins of all tensors among the values."""
        tensors = (value for value in values if isinstance(value, Tensor))
        found = (self._origins.get(StorageWeakRef(tensor.untyped_storage()), frozenset()) for tensor in tensors)
        return frozenset().union(*found)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self.is_outside and (origins := self.origins(tree_leaves((args, kwargs)))):
            for tensor in tree_leaves(result):
                if isinstance(tensor, Tensor):
                    self.set(tensor, origins)
        return result
