"""Halo exchange: each worker of images split by rows receives the neighbouring rows that its convolution reads."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function
from torch.distributed.device_mesh import DeviceMesh

from workbench.strategies.tensor.row_split import RowSplit


def exchange_halos(x: Tensor, split: RowSplit, mesh: DeviceMesh) -> Tensor:
    """Adds the halos from other workers to the local rows, (batch, channels, local rows, width) → (batch, channels, window,
    width), where the window is the input rows of the local outputs, with padding. Backward returns the gradients of the halos."""
    return _HaloExchange.apply(x, split, mesh)


class _HaloExchange(Function):
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
