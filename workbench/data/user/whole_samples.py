"""Samples in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.data.base import Array


@dataclass(frozen=True)
class WholeSamples:
    """Inputs and targets of all samples: arrays with the samples as dim 0, nested in dicts and tuples."""

    inputs: Any
    all_targets: Any
    count: int

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: Array) -> tuple[Any, Any]:
        return _selected(self.inputs, indices), _selected(self.all_targets, indices)

    def targets(self, indices: Array) -> Any:
        """Returns only the targets."""
        return _selected(self.all_targets, indices)


def _selected(arrays: Any, indices: Array) -> Any:
    if isinstance(arrays, Mapping):
        return {name: _selected(part, indices) for name, part in arrays.items()}
    if isinstance(arrays, tuple | list):
        return tuple(_selected(part, indices) for part in arrays)
    return arrays[indices]
