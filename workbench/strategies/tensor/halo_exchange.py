"""Layers of a convolutional network over images whose rows are split over workers, with halo exchange.

Weights are replicated; ``copy_to_slices`` sums the partial gradients of the workers.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.functional import conv2d, pad

from workbench.strategies.tensor.collectives import copy_to_slices, reduce_for_slices, reduce_parts
from workbench.strategies.tensor.row_split import RowSplit


def exchange_rows(x: Tensor, split: RowSplit, mesh: DeviceMesh) -> Tensor:
    """Adds the halos from other workers to the local rows, (batch, channels, local rows, width) → (batch, channels, window,
    width), where the window is the input rows of the local outputs, with padding. Backward returns the gradients of the halos."""
    return _ExchangeRows.apply(x, split, mesh)


class _ExchangeRows(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, split: RowSplit, mesh: DeviceMesh) -> Tensor:
        ctx.split, ctx.mesh, rank = split, mesh, mesh.get_local_rank()
        local_rows, window = split.inputs[rank], split.window(rank)
        extended = x.new_zeros(*x.shape[:2], len(window), x.shape[3])
        _rows(extended, window, split.halo(rank, rank)).copy_(_rows(x, local_rows, split.halo(rank, rank)))
        lent = {worker: _rows(x, local_rows, rows) for (owner, worker), rows in split.halos().items() if owner == rank}
        borrowed = {o: _rows(extended, window, rows) for (o, worker), rows in split.halos().items() if worker == rank}
        for owner, rows in _swap(lent, borrowed, mesh).items():
            borrowed[owner].copy_(rows)
        return extended

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,), split, rank = gradients, ctx.split, ctx.mesh.get_local_rank()
        local_rows, window = split.inputs[rank], split.window(rank)
        total = gradient.new_zeros(*gradient.shape[:2], len(local_rows), gradient.shape[3])
        _rows(total, local_rows, split.halo(rank, rank)).copy_(_rows(gradient, window, split.halo(rank, rank)))
        borrowed = {o: _rows(gradient, window, rows) for (o, worker), rows in split.halos().items() if worker == rank}
        lent = {worker: _rows(total, local_rows, rows) for (owner, worker), rows in split.halos().items() if owner == rank}
        for worker, rows in _swap(borrowed, lent, ctx.mesh).items():
            lent[worker].add_(rows)
        return total, None, None


def _rows(x: Tensor, x_rows: range, rows: range) -> Tensor:
    """Returns a view of ``rows`` of x, which holds the rows ``x_rows``."""
    return x[:, :, rows.start - x_rows.start : rows.stop - x_rows.start]


def _swap(sent: dict[int, Tensor], receive_like: dict[int, Tensor], mesh: DeviceMesh) -> dict[int, Tensor]:
    """Sends ``sent[worker]`` to each worker, and receives a tensor like ``receive_like[worker]`` from each."""
    group, rank, received, operations = mesh.get_group(), mesh.get_local_rank(), dict[int, Tensor](), list[dist.P2POp]()
    for peer in sorted(sent | receive_like):
        pair = list[dist.P2POp]()
        if peer in sent:
            pair.append(dist.P2POp(dist.isend, sent[peer].contiguous(), group=group, group_peer=peer))
        if peer in receive_like:
            received[peer] = torch.empty_like(receive_like[peer], memory_format=torch.contiguous_format)
            pair.append(dist.P2POp(dist.irecv, received[peer], group=group, group_peer=peer))
        # The lower rank of a pair sends first, so that backends that run the operations in order cannot deadlock.
        operations += pair if rank < peer else pair[::-1]
    for work in dist.batch_isend_irecv(operations) if operations else []:
        work.wait()
    return received


class RowConvolution(nn.Module):
    """A convolution over split rows: exchanges halos, then computes the local output rows."""

    def __init__(self, layer: nn.Conv2d, split: RowSplit, mesh: DeviceMesh) -> None:
        super().__init__()
        self.weight, self.split, self.mesh = layer.weight, split, mesh

    def forward(self, x: Tensor) -> Tensor:
        weight = copy_to_slices(self.weight, self.mesh)
        return conv2d(exchange_rows(x, self.split, self.mesh), weight, None, self.split.stride, (0, self.split.padding))


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

    The variance is E[x²] − E[x]², one all-reduce instead of two; good where the mean is not many deviations from zero,
    such as after a convolution of normalized values.
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
    """Statistics of each sample over groups of channels."""

    def __init__(self, layer: nn.GroupNorm, height: int, mesh: DeviceMesh) -> None:
        super().__init__(layer, height, mesh)
        self.num_groups = layer.num_groups

    def forward(self, x: Tensor) -> Tensor:
        grouped = x.unflatten(1, (self.num_groups, -1))  # (batch, groups, channels of one, rows, width)
        count = grouped.shape[2] * self.height * x.shape[3]
        mean, variance = self._statistics(grouped, (2, 3, 4), count)
        return self._scaled(((grouped - mean) * (variance + self.eps).rsqrt()).flatten(1, 2))


class RowBatchNorm(RowNorm):
    """Statistics of each channel over the batch; running ones for evaluation."""

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
