"""Layers of a convolutional network over images whose rows are split over workers.

Weights are replicated; ``copy_to_slices`` sums the partial gradients of the workers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.functional import conv2d, pad

from workbench.strategies.tensor.collectives import copy_to_slices, reduce_for_slices, reduce_parts
from workbench.strategies.tensor.halo_exchange import exchange_halos
from workbench.strategies.tensor.row_split import RowSplit


class RowConvolution(nn.Module):
    """A convolution over split rows: exchanges halos, then computes the local output rows."""

    def __init__(self, layer: nn.Conv2d, split: RowSplit, mesh: DeviceMesh) -> None:
        super().__init__()
        self.weight, self.split, self.mesh = layer.weight, split, mesh

    def forward(self, x: Tensor) -> Tensor:
        weight = copy_to_slices(self.weight, self.mesh)
        return conv2d(exchange_halos(x, self.split, self.mesh), weight, None, self.split.stride, (0, self.split.padding))


class RowStem(RowConvolution):
    """The first convolution: every worker has the full images and takes the input rows of its outputs."""

    def forward(self, x: Tensor) -> Tensor:
        window, padding = self.split.window(self.mesh.get_local_rank()), self.split.padding
        rows = pad(x, (0, 0, padding, padding))[:, :, window.start + padding : window.stop + padding]
        weight = copy_to_slices(self.weight, self.mesh)
        return conv2d(rows, weight, None, self.split.stride, (0, padding))


def row_norm(layer: nn.Module, height: int, mesh: DeviceMesh) -> nn.Module:
    """Returns the norm over split rows; ``height`` is the number of rows of the full image."""
    if isinstance(layer, nn.GroupNorm):
        return RowGroupNorm(layer, height, mesh)
    assert isinstance(layer, nn.BatchNorm2d)
    return RowBatchNorm(layer, height, mesh)


class RowNorm(nn.Module):
    """Group or batch norm over split rows: the sums of its statistics are all-reduced.

    The variance is E[x²] − E[x]², which takes one all-reduce instead of two. It is accurate if the mean is not many deviations
    from zero, such as after a convolution of normalized values.
    """

    def __init__(self, layer: nn.GroupNorm | nn.BatchNorm2d, height: int, mesh: DeviceMesh) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = layer.weight, layer.bias, layer.eps
        self.height, self.mesh = height, mesh

    def _statistics(self, x: Tensor, dims: tuple[int, ...], count: int) -> tuple[Tensor, Tensor]:
        """Returns mean and variance over ``dims`` of x on all workers, ``count`` elements; the dims are kept with size 1."""
        sums = torch.stack([x.sum(dims, keepdim=True), x.square().sum(dims, keepdim=True)])
        mean, square = reduce_for_slices(sums, self.mesh) / count
        return mean, square - mean.square()

    def _scaled(self, normal: Tensor) -> Tensor:
        weight, bias = (copy_to_slices(p, self.mesh)[:, None, None] for p in (self.weight, self.bias))
        return normal * weight + bias


class RowGroupNorm(RowNorm):
    """Group norm over split rows: statistics of each sample and group of channels."""

    def __init__(self, layer: nn.GroupNorm, height: int, mesh: DeviceMesh) -> None:
        super().__init__(layer, height, mesh)
        self.num_groups = layer.num_groups

    def forward(self, x: Tensor) -> Tensor:
        grouped = x.unflatten(1, (self.num_groups, -1))  # (batch, groups, channels of one, rows, width)
        count = grouped.shape[2] * self.height * x.shape[3]
        mean, variance = self._statistics(grouped, (2, 3, 4), count)
        return self._scaled(((grouped - mean) * (variance + self.eps).rsqrt()).flatten(1, 2))


class RowBatchNorm(RowNorm):
    """Batch norm over split rows: statistics of each channel over the batch, running ones in eval mode."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, layer: nn.BatchNorm2d, height: int, mesh: DeviceMesh) -> None:
        super().__init__(layer, height, mesh)
        assert layer.momentum is not None
        self.momentum = layer.momentum
        for name in ("running_mean", "running_var"):
            self.register_buffer(name, getattr(layer, name))

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self.running_mean[:, None, None], self.running_var[:, None, None]
        if self.training:
            count = len(x) * self.height * x.shape[3]
            mean, variance = self._statistics(x, (0, 2, 3), count)
            with torch.no_grad():
                self.running_mean.lerp_(mean.flatten(), self.momentum)
                self.running_var.lerp_(variance.flatten() * (count / (count - 1)), self.momentum)
        return self._scaled((x - mean) * (variance + self.eps).rsqrt())


class RowPool(nn.Module):
    """Mean over the full image, (batch, channels, local rows, width) → (batch, channels), by all-reduce of the local sums."""

    def __init__(self, height: int, mesh: DeviceMesh) -> None:
        super().__init__()
        self.height, self.mesh = height, mesh

    def forward(self, x: Tensor) -> Tensor:
        return reduce_parts(x.sum((2, 3)) / (self.height * x.shape[3]), self.mesh)
