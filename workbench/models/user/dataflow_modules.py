"""Follows tensors through one forward pass of a module: which outputs and parameters the code between its units reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from workbench.torch_private.autograd import version_of
from workbench.torch_private.dispatch import TorchDispatchMode, TreeSpec, tree_flatten, tree_leaves

INSIDE = "inside"
"""Leaf of what a unit computes but does not return, such as an attribute that it sets: no other stage can have it."""
_VALUE_TAGS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
"""Tags of operations whose number or shape depends on values."""
LOSS, OUTPUT = 10**9, 10**9 + 1
"""Positions of the loss and of the main output of the whole module among the readers of a tensor: after all units."""


@dataclass(frozen=True)
class Origin:
    """Where a tensor comes from: a leaf of the output of a unit, or a parameter."""

    unit: int
    """Index of the unit; −1 for a parameter."""

    leaf: int | str
    """Index among the leaves of the output, or ``INSIDE``; of a parameter its name."""


@dataclass
class Dataflow:
    """One forward pass of a module."""

    structures: list[tuple[TreeSpec, list[Any]]] = field(default_factory=list)
    """The output of each unit: its structure, and its leaves; tensors are on the device of the pass."""

    readers: dict[Origin, set[int]] = field(default_factory=dict)
    """Output of a unit, or parameter → the units whose inputs are computed from it outside of units, ``LOSS`` and ``OUTPUT``.
    What else the module returns is not read."""

    branched_on: set[Origin] = field(default_factory=set)
    """Origins whose values the code between the units has read, or on whose values the shape of a tensor depends."""

    origins: dict[str, frozenset[Origin]] = field(default_factory=dict)
    """Origins of the outputs of the watched modules."""

    written_outside: set[Origin] = field(default_factory=set)
    """Outputs of units that the code between the units wrote in place."""

    written_inside: set[Origin] = field(default_factory=set)
    """Outputs of units that a later unit wrote in place."""

    same: dict[Origin, Origin] = field(default_factory=dict)
    """Output → the output of a later unit that is the same tensor, such as that of an activation in place."""


def follow(root: nn.Module, units: Sequence[str], run: Callable[[], Any], watched: Sequence[str] = ()) -> Dataflow:
    """Runs a forward pass without gradients and returns what the code between the units reads.

    A tensor is what its storage is: views of an output, and what is written into it, count as that output.

    Args:
        run: calls the module; returns the main output, with the loss if the module has one.
        watched: Paths of modules that are no units, whose outputs' origins are noted.
    """
    flow, mode, versions = Dataflow(), _Following(), dict[Origin, tuple[Tensor, int]]()
    for name, parameter in root.named_parameters():
        mode.add(parameter, [Origin(-1, name)])

    def read(values: Any, reader: int) -> None:
        for origin in mode.origins(tree_leaves(values)):
            flow.readers.setdefault(origin, set()).add(reader)

    def note_writes(written: set[Origin]) -> None:
        for origin, (tensor, version) in versions.items():
            if version_of(tensor) != version:
                written.add(origin)
                versions[origin] = tensor, version_of(tensor)

    def enter(index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            assert mode.unit is None, f"unit {units[index]} is called inside another unit"
            note_writes(flow.written_outside)
            read((args, kwargs), index)
            for value in tree_leaves((args, kwargs)):
                if isinstance(value, Tensor):
                    mode.add(value, [])  # known, though nothing computed it
            mode.enter(index)

        return hook

    def leave(index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            mode.leave()
            note_writes(flow.written_inside)
            leaves, structure = tree_flatten(output)
            flow.structures.append((structure, leaves))
            for position, leaf in enumerate(leaves):
                if isinstance(leaf, Tensor):
                    origin = Origin(index, position)
                    flow.same.update((other, origin) for other, (tensor, _) in versions.items() if tensor is leaf)
                    mode.add(leaf, [origin], but=Origin(index, INSIDE))
                    versions[origin] = leaf, version_of(leaf)

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
        main, *loss = results if isinstance(results := run(), tuple) else (results,)
        read(main, OUTPUT)
        read(loss or main, LOSS)
        note_writes(flow.written_outside)
    flow.branched_on = mode.branched_on
    return flow


def reads_values(root: nn.Module, inputs: Any, run: Callable[[], Any]) -> bool:
    """Returns whether a forward pass reads values that depend on parameters or inputs, such as for a branch. What cannot be
    followed may read some.

    Args:
        run: calls the module with ``inputs``.
    """
    mode = _Following()
    for tensor in [*root.parameters(), *(leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor))]:
        mode.add(tensor, [Origin(-1, INSIDE)])
    try:
        with torch.no_grad(), mode:
            run()
    except Exception:  # noqa: BLE001 - of code that does not run under a mode, as what compiles itself
        return True
    return bool(mode.branched_on)


def differentiable(root: nn.Module, units: Sequence[str], run: Callable[[], Any]) -> frozenset[Origin]:
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
        run()
    return frozenset(found)


class _Following(TorchDispatchMode):
    """Notes the origins of every tensor that is computed."""

    supports_higher_order_operators = True
    """Of ``torch.cond`` and others."""
    unit: int | None = None
    """Index of the unit that computes; None for the code between the units."""

    def __init__(self) -> None:
        super().__init__()
        self.branched_on: set[Origin] = set()
        """As of ``Dataflow``."""
        self._origins: dict[StorageWeakRef, frozenset[Origin]] = {}
        self._kept: dict[StorageWeakRef, Tensor] = {}  # a freed storage could be mistaken for a new one
        self._versions: dict[StorageWeakRef, int] = {}

    def enter(self, unit: int) -> None:
        """Begins a unit."""
        self.unit = unit
        self._versions = {key: version_of(tensor) for key, tensor in self._kept.items()}

    def leave(self) -> None:
        """Ends the unit: what it has written in place, but does not return, is inside it."""
        assert self.unit is not None
        for key, version in self._versions.items():
            if version_of(self._kept[key]) != version:
                self._origins[key] |= {Origin(self.unit, INSIDE)}
        self.unit = None

    def add(self, tensor: Tensor, origins: Iterable[Origin], but: Origin | None = None) -> None:
        """Adds origins to those of the storage of a tensor, without ``but``."""
        key = StorageWeakRef(tensor.untyped_storage())
        self._kept.setdefault(key, tensor)
        self._origins[key] = (self._origins.get(key, frozenset()) - {but}).union(origins)

    def origins(self, values: Iterable[Any]) -> frozenset[Origin]:
        """Returns the origins of all tensors among the values."""
        tensors = (value for value in values if isinstance(value, Tensor))
        found = (self._origins.get(StorageWeakRef(tensor.untyped_storage()), frozenset()) for tensor in tensors)
        return frozenset().union(*found)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        tensors = [value for value in tree_leaves(result) if isinstance(value, Tensor)]
        if self.unit is not None:  # views of what is outside are no tensors of the unit's own
            new = (tensor for tensor in tensors if StorageWeakRef(tensor.untyped_storage()) not in self._origins)
            for tensor in list(new):
                self.add(tensor, [Origin(self.unit, INSIDE)])
            return result
        origins = self.origins(tree_leaves((args, kwargs)))
        # Control flow as an operator, such as torch.cond, has no tags.
        if not tensors or _VALUE_TAGS.intersection(getattr(func, "tags", _VALUE_TAGS)):
            self.branched_on.update(origins)
        for tensor in tensors:
            self.add(tensor, origins)
        return result
