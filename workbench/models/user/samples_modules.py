"""Random samples like those of a dataset, with which a module is inspected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from workbench.plan.nested import nested

if TYPE_CHECKING:
    from collections.abc import Iterable

    from workbench.data.base import DatasetSummary, TensorSummary


class Samples:
    """Random batches, by their number of samples."""

    def __init__(self, data: DatasetSummary, device: str) -> None:
        self.data, self.device = data, device

    def inputs(self, count: int) -> Any:
        """Returns inputs of so many samples."""
        data = self.data
        if data.inputs:
            return nested({t.path: self._values(t, count) for t in data.inputs})
        return self._of_kind(count, data.input_shape, is_number=data.kind != "tokens")

    def targets(self, count: int) -> Any:
        """Returns targets of so many samples."""
        data = self.data
        if data.targets:
            return nested({t.path: self._values(t, count) for t in data.targets})
        return self._of_kind(count, data.target_shape, data.has_numbers)

    def _of_kind(self, count: int, shape: Iterable[int], is_number: bool) -> Tensor:
        if is_number:
            return torch.randn(count, *shape, device=self.device)
        return torch.randint(self.data.num_classes or 2, (count, *shape), device=self.device)

    def _values(self, summary: TensorSummary, count: int) -> Tensor:
        dtype, shape = getattr(torch, summary.dtype), (count, *summary.shape)
        if dtype == torch.bool:
            return torch.rand(shape, device=self.device) < (1.0 if summary.low else 0.5)
        if not dtype.is_floating_point:
            return torch.randint(int(summary.low), int(summary.high) + 1, shape, dtype=dtype, device=self.device)
        uniform = torch.rand(shape, dtype=dtype, device=self.device)
        return summary.low + uniform * (summary.high - summary.low)
