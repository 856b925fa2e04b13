"""Measures what the forward pass of a user's module keeps for backward, and from which block to which."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

from workbench.models.dropout_modules import DropoutKeys
from workbench.models.user.dataflow_modules import Origin
from workbench.models.user.structure_modules import Structure
from workbench.plan.kept_tensors import KeptTensors
from workbench.torch_private.dispatch import tree_leaves

_COUNTS = (2, 3)
"""Numbers of samples of the two passes, whose difference is what a sample keeps; what all samples share is left out."""
Group = tuple[tuple[int, ...], tuple[int, ...]]
"""Indices of the blocks that save a tensor, and of those after which a cut would let it cross."""


def kept_tensors(
    root: nn.Module, structure: Structure | None, batch: Callable[[int], Any], loss: Callable[[Any], Tensor]
) -> tuple[KeptTensors, ...]:
    """Returns what a forward pass and the loss keep, from two passes in train mode on the CPU.

    Args:
        batch: given a number of samples, returns a batch.
        loss: given a batch, calls ``root`` and returns the loss.
    """
    few, more = (_kept(root, structure, batch(count), loss) for count in _COUNTS)
    found = []
    for (savers, cuts), (elements, others) in more.items():
        before = few.get((savers, cuts), (0, 0))
        kept = KeptTensors(savers, cuts, elements - before[0], others - before[1])
        if kept.num_elements or kept.other_bytes:
            found.append(kept)
    return tuple(found)


class _Saved:
    """Stands for a saved tensor, as long as the graph that saved it lives."""

    def __init__(self, storage: StorageWeakRef, block: int) -> None:
        self.storage, self.block = storage, block


def _kept(
    root: nn.Module, structure: Structure | None, batch: Any, loss: Callable[[Any], Tensor]
) -> dict[Group, tuple[int, int]]:
    """Returns the number of floating-point elements and the bytes of other tensors by group."""
    given = [*root.parameters(), *root.buffers(), *(leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor))]
    outside = {StorageWeakRef(tensor.untyped_storage()) for tensor in given}
    DropoutKeys(root, 0, torch.device("cpu")).begin_step(0, torch.arange(len(_first(batch))))
    saved: weakref.WeakSet[_Saved] = weakref.WeakSet()
    sizes: dict[StorageWeakRef, tuple[int, int]] = {}
    outputs: dict[Origin, StorageWeakRef] = {}
    ends = [block.last_unit for block in structure.blocks] if structure else []
    block = 0

    def size(tensor: Tensor) -> StorageWeakRef:
        storage = StorageWeakRef(tensor.untyped_storage())
        num_bytes = tensor.untyped_storage().nbytes()
        sizes.setdefault(storage, (num_bytes // tensor.element_size(), 0) if tensor.is_floating_point() else (0, num_bytes))
        return storage

    def pack(tensor: Tensor) -> _Saved:
        token = _Saved(size(tensor), block)
        if token.storage not in outside:
            saved.add(token)
        return token

    def after(unit: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            nonlocal block
            for position, leaf in enumerate(tree_leaves(output)):
                if isinstance(leaf, Tensor):
                    outputs[Origin(unit, position)] = size(leaf)
            block = next((index for index, end in enumerate(ends) if end > unit), len(ends) - 1)

        return hook

    with ExitStack() as stack:
        for unit, path in enumerate(structure.units if structure else ()):
            handle = root.get_submodule(path).register_forward_hook(after(unit))
            stack.callback(handle.remove)
        with saved_tensors_hooks(pack, _refuse):
            value = loss(batch)
    assert value.dim() == 0
    savers: dict[StorageWeakRef, set[int]] = defaultdict(set)
    for token in saved:
        savers[token.storage].add(token.block)
    cuts: dict[StorageWeakRef, set[int]] = defaultdict(set)
    for cut in structure.cut_points if structure else ():
        assert structure is not None
        for origin in structure.carry(cut):
            cuts[outputs[origin]].add(cut)
    found: dict[Group, tuple[int, int]] = {}
    for storage in {*savers, *cuts}:
        group = tuple(sorted(savers[storage])), tuple(sorted(cuts[storage]))
        old = found.get(group, (0, 0))
        found[group] = old[0] + sizes[storage][0], old[1] + sizes[storage][1]
    return found


def _first(batch: Any) -> Tensor:
    return next(leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor))


def _refuse(token: Sequence[Any]) -> Tensor:
    raise AssertionError("the graph of this pass has no backward pass")
