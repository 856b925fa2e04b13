"""Layers of a convolutional trunk over images whose rows are shared out between workers.

Weights are whole on every worker, and each computes a part of their gradients; ``whole_to_slices`` adds these up.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.functional import conv2d, pad

from workbench.strategies.tensor.collectives import sum_for_slices, sum_of_parts, whole_to_slices
from workbench.strategies.tensor.row_split import RowSplit


def exchange_rows(x: Tensor, split: RowSplit, mesh: DeviceMesh) -> Tensor:
    """This worker's rows (batch, channels, own rows, width) → the rows that its outputs are made from, padding included
    (batch, channels, window, width). Halos come from the workers that own them; backward their gradients go back."""
    return _ExchangeRows.apply(x, split, mesh)


class _ExchangeRows(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, split: RowSplit, mesh: DeviceMesh) -> Tensor:
        ctx.split, ctx.mesh, here = split, mesh, mesh.get_local_rank()
        own, window = split.inputs[here], split.window(here)
        extended = x.new_zeros(*x.shape[:2], len(window), x.shape[3])
        _rows(extended, window, split.halo(here, here)).copy_(_rows(x, own, split.halo(here, here)))
        lent = {worker: _rows(x, own, rows) for (owner, worker), rows in split.halos().items() if owner == here}
        borrowed = {o: _rows(extended, window, rows) for (o, worker), rows in split.halos().items() if worker == here}
        for owner, rows in _swap(lent, borrowed, mesh).items():
            borrowed[owner].copy_(rows)
        return extended

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,), split, here = gradients, ctx.split, ctx.mesh.get_local_rank()
        own, window = split.inputs[here], split.window(here)
        total = gradient.new_zeros(*gradient.shape[:2], len(own), gradient.shape[3])
        _rows(total, own, split.halo(here, here)).copy_(_rows(gradient, window, split.halo(here, here)))
        borrowed = {o: _rows(gradient, window, rows) for (o, worker), rows in split.halos().items() if worker == here}
        lent = {worker: _rows(total, own, rows) for (owner, worker), rows in split.halos().items() if owner == here}
        for worker, rows in _swap(borrowed, lent, ctx.mesh).items():
            lent[worker].add_(rows)
        return total, None, None


def _rows(x: Tensor, held: range, wanted: range) -> Tensor:
    """The wanted rows as a view of x, which holds the rows ``held``."""
    return x[:, :, wanted.start - held.start : wanted.stop - held.start]


def _swap(sent: dict[int, Tensor], like: dict[int, Tensor], mesh: DeviceMesh) -> dict[int, Tensor]:
    """Sends a tensor to each worker in ``sent`` and receives one like ``like[worker]`` from each in there."""
    group, here, received, operations = mesh.get_group(), mesh.get_local_rank(), dict[int, Tensor](), list[dist.P2POp]()
    for peer in sorted(sent | like):
        pair = list[dist.P2POp]()
        if peer in sent:
            pair.append(dist.P2POp(dist.isend, sent[peer].contiguous(), group=group, group_peer=peer))
        if peer in like:
            received[peer] = torch.empty_like(like[peer], memory_format=torch.contiguous_format)
            pair.append(dist.P2POp(dist.irecv, received[peer], group=group, group_peer=peer))
        # Of two workers the first sends first: back-ends that run a pair's operations in order then cannot lock up.
        operations += pair if here < peer else pair[::-1]
    for work in dist.batch_isend_irecv(operations) if operations else []:
        work.wait()
    return received


class RowConvolution(nn.Module):
    """A convolution of rows that are shared out: halos first, then this worker's output rows."""

    def __init__(self, layer: nn.Conv2d, split: RowSplit, mesh: DeviceMesh) -> None:
        super().__init__()
        self.weight, self.split, self.mesh = layer.weight, split, mesh

    def forward(self, x: Tensor) -> Tensor:
        weight = whole_to_slices(self.weight, self.mesh)
        return conv2d(exchange_rows(x, self.split, self.mesh), weight, None, self.split.stride, (0, self.split.padding))


class RowStem(RowConvolution):
    """The first convolution: every worker has the whole images and takes the rows that its outputs are made from."""

    def forward(self, x: Tensor) -> Tensor:
        window, padding = self.split.window(self.mesh.get_local_rank()), self.split.padding
        rows = pad(x, (0, 0, padding, padding))[:, :, window.start + padding : window.stop + padding]
        weight = whole_to_slices(self.weight, self.mesh)
        return conv2d(rows, weight, None, self.split.stride, (0, padding))


def row_norm(layer: nn.Module, height: int, mesh: DeviceMesh) -> nn.Module:
    """The norm of rows that are shared out; ``height``: rows of the whole image."""
    if isinstance(layer, nn.GroupNorm):
        return RowGroupNorm(layer, height, mesh)
    assert isinstance(layer, nn.BatchNorm2d)
    return RowBatchNorm(layer, height, mesh)


class RowNorm(nn.Module):
    """Group or batch norm of rows that are shared out: the sums that its statistics are made of are all-reduced.

    The variance is E[x²] − E[x]², one all-reduce instead of two; good where the mean is not many deviations from zero,
    as after a convolution of normalised values.
    """

    def __init__(self, layer: nn.GroupNorm | nn.BatchNorm2d, height: int, mesh: DeviceMesh) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = layer.weight, layer.bias, layer.eps
        self.height, self.mesh = height, mesh

    def _statistics(self, x: Tensor, dims: tuple[int, ...], count: int) -> tuple[Tensor, Tensor]:
        """Mean and variance over ``dims`` of all workers' x, of ``count`` elements; kept as dims of one."""
        sums = torch.stack([x.sum(dims, keepdim=True), x.square().sum(dims, keepdim=True)])
        mean, square = sum_for_slices(sums, self.mesh) / count
        return mean, square - mean.square()

    def _scaled(self, normal: Tensor) -> Tensor:
        weight, bias = (whole_to_slices(p, self.mesh)[:, None, None] for p in (self.weight, self.bias))
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
    """Mean over the whole image, (batch, channels, own rows, width) → (batch, channels): the rows' sums are added up."""

    def __init__(self, height: int, mesh: DeviceMesh) -> None:
        super().__init__()
        self.height, self.mesh = height, mesh

    def forward(self, x: Tensor) -> Tensor:
        return sum_of_parts(x.sum((2, 3)) / (self.height * x.shape[3]), self.mesh)
