"""A batch of samples: one tensor with the samples as dim 0, or tuples, lists and dicts of such tensors, nested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from workbench.torch_private.dispatch import tree_leaves, tree_map


def num_samples(batch: Any) -> int:
    """Returns the number of samples of a batch."""
    return len(tree_leaves(batch)[0])


def num_targets(targets: Any) -> int:
    """Returns the number of targets: of the elements of one tensor, or of the samples of several."""
    return targets.numel() if isinstance(targets, Tensor) else num_samples(targets)


def pieces(batch: Any, count: int, dim: int = 0) -> list[Any]:
    """Returns a batch as ``count`` pieces along a dim."""
    if isinstance(batch, Tensor):
        return list(batch.chunk(count, dim))
    return [tree_map(lambda tensor, index=index: tensor.chunk(count, dim)[index], batch) for index in range(count)]


def selected(batch: Any, indices: Tensor | slice) -> Any:
    """Returns some of the samples."""
    return tree_map(lambda tensor: tensor[indices], batch)


def call(module: nn.Module, inputs: Any, **more: Any) -> Any:
    """Returns what a module returns for inputs: a tuple or list are its arguments, a dict its keyword arguments. ``more`` are
    further keyword arguments."""
    if isinstance(inputs, Mapping):
        return module(**inputs, **more)
    return module(*inputs, **more) if isinstance(inputs, Sequence) else module(inputs, **more)
