"""Nominates modules of a user's model that may be cut together, from one forward pass: computing decides about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from workbench.strategies.tensor.sliced_modules import dims_of, is_linear, is_table
from workbench.torch_private.dispatch import TorchDispatchMode, tree_leaves

_VALUE_TAGS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
"""Tags of operations whose number or shape depends on values."""
OUTPUT = ""
"""In the place of a path: the output of the whole module."""


@dataclass(frozen=True)
class Candidate:
    """Linear layers of which some use the outputs of the others, or a single table or head."""

    columns: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths of all its modules."""
        return (*self.columns, *self.rows, *self.tables, *self.heads)


def owner_of(paths: Sequence[str]) -> str:
    """Returns the path of the innermost module that contains all of these."""
    common = []
    for names in zip(*(path.split(".")[:-1] for path in paths), strict=False):
        if len(set(names)) > 1:
            break
        common.append(names[0])
    return ".".join(common)


@dataclass
class Flow:
    """Which linear layers and tables use the outputs of which, with nothing of that kind in between."""

    order: list[str] = field(default_factory=list)
    """Paths in the order of their first calls."""

    sources: dict[str, set[str]] = field(default_factory=dict)
    """Path, or ``OUTPUT`` → the modules from whose outputs its input is computed."""

    elements: dict[str, int] = field(default_factory=dict)
    """Path → number of elements of the tensors that it was first given."""

    branched_on: set[str] = field(default_factory=set)
    """Modules whose outputs decide what the code does next, or the shape of a tensor."""

    def readers(self, path: str) -> set[str]:
        """Returns the modules that use the output of one."""
        return {reader for reader, sources in self.sources.items() if path in sources}


def flow_of(root: nn.Module, call: Callable[[nn.Module], Any]) -> Flow:
    """Returns the flow between the linear layers and tables of a module in one forward pass."""
    flow, mode = Flow(), _Following()

    def enter(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            if path not in flow.sources:
                flow.order.append(path)
                given = (value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor))
                flow.elements[path] = sum(tensor.numel() for tensor in given)
            flow.sources.setdefault(path, set()).update(mode.origins((args, kwargs)))

        return hook

    def leave(path: str) -> Callable[..., None]:
        return lambda module, args, output: mode.assign(output, {path})

    with ExitStack() as hooks, torch.no_grad(), mode:
        for path, module in root.named_modules():
            if is_linear(module) or is_table(module):
                hooks.callback(module.register_forward_pre_hook(enter(path), with_kwargs=True).remove)
                hooks.callback(module.register_forward_hook(leave(path)).remove)
        flow.sources[OUTPUT] = mode.origins(call(root))
    flow.branched_on = mode.branched_on
    return flow


def candidates(root: nn.Module, flow: Flow) -> list[Candidate]:
    """Returns candidates in the order of their last modules; no module is in two of them."""
    modules, found = dict(root.named_modules()), []
    weights = Counter(id(modules[path].weight) for path in flow.order)
    taken = {path for path in flow.order if weights[id(modules[path].weight)] > 1}  # tied: a table with a head
    for path in flow.order:
        if path in taken or not is_linear(modules[path]):
            continue
        sources = {source for source in flow.sources[path] if is_linear(modules[source]) and source not in taken}
        rows = {reader for source in sources for reader in flow.readers(source) - {OUTPUT}}
        columns = {source for source in sources if flow.readers(source) - {OUTPUT} == {path}}
        if columns and not rows.intersection(columns):
            ordered = [name for name in flow.order if name in columns]
            found.append(Candidate(columns=tuple(ordered), rows=(path,)))
            taken |= {*columns, path}
    paired = {path for candidate in found for path in candidate.paths}
    tables = [path for path in flow.order if is_table(modules[path])]
    heads = [path for path in flow.order if path in flow.sources[OUTPUT] and is_linear(modules[path]) and path not in paired]
    of_weight: dict[int, list[str]] = {}
    for path in (*tables, *heads):
        of_weight.setdefault(id(modules[path].weight), []).append(path)
    for paths in of_weight.values():
        found.append(Candidate(tables=tuple(p for p in paths if p in tables), heads=tuple(p for p in paths if p in heads)))
    return found


def size_of(module: nn.Module, style: str) -> int:
    """Returns the number of features or entries along which a module is cut."""
    weight = module.get_parameter("weight")
    return weight.shape[dims_of(module, style)["weight"]]


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
