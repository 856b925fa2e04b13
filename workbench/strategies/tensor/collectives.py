"""Collectives that autograd can pass through, and parameters cut into slices.

A tensor is *whole* (the same on every worker), a *slice* (each worker has other entries of it) or a *part* (the sum over
the workers is meant). So is its gradient: of a whole tensor whole, of a slice a slice. Where a whole tensor is used by
sliced layers, each worker computes a part of its gradient; ``whole_to_slices`` makes that whole again.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from workbench.torch_private.distributed import AsyncCollectiveTensor


def sliced(parameter: Tensor, dim: int, mesh: DeviceMesh) -> nn.Parameter:
    """This worker's slice of a parameter along ``dim``, as a DTensor that knows its place in the whole."""
    mine = parameter.detach().chunk(mesh.size(), dim)[mesh.get_local_rank()].clone()
    return nn.Parameter(DTensor.from_local(mine, mesh, [Shard(dim)]), requires_grad=parameter.requires_grad)


def local(parameter: nn.Parameter) -> Tensor:
    """This worker's slice as a plain tensor; gradients flow back to the DTensor."""
    assert isinstance(parameter, DTensor)
    return parameter.to_local()


def whole_to_slices(x: Tensor, mesh: DeviceMesh) -> Tensor:
    """Forward x itself, whole; backward the all-reduce of the gradient's parts. Megatron-LM's *f*."""
    return _SumGradient.apply(x, mesh)


def sum_of_parts(x: Tensor, mesh: DeviceMesh) -> Tensor:
    """Forward the all-reduce of the parts, whole; backward the gradient itself. Megatron-LM's *g*."""
    return _Sum.apply(x, mesh)


def sum_for_slices(x: Tensor, mesh: DeviceMesh) -> Tensor:
    """The all-reduce of the parts, used by sliced layers again: all-reduce forward and backward."""
    return whole_to_slices(sum_of_parts(x, mesh), mesh)


def join_slices(x: Tensor, dim: int, mesh: DeviceMesh) -> Tensor:
    """Forward the all-gather of equal slices along ``dim``, whole; backward this worker's slice of the gradient."""
    return _Join.apply(x, dim, mesh)


def own_slice(x: Tensor, dim: int, mesh: DeviceMesh) -> Tensor:
    """Forward this worker's slice of x along ``dim``; backward the all-gather of the gradient's slices."""
    return _Slice.apply(x, dim, mesh)


def arrived(x: Tensor) -> Tensor:
    """x itself, once what DTensor still lets travel is there: a stage cannot send on what has no memory of its own yet."""
    return _Wait.apply(x)


def all_reduced(x: Tensor, mesh: DeviceMesh) -> Tensor:
    """The sum over the workers, in a tensor of its own."""
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=mesh.get_group())
    return total


def all_gathered(x: Tensor, dim: int, mesh: DeviceMesh) -> Tensor:
    """The workers' equal slices one after the other along ``dim``."""
    slices = list(x.new_empty(mesh.size(), *x.shape).unbind())
    dist.all_gather(slices, x.contiguous(), group=mesh.get_group())
    return torch.cat(slices, dim)


class _Wait(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.wait() if isinstance(x, AsyncCollectiveTensor) else x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0]


class _SumGradient(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mesh: DeviceMesh) -> Tensor:
        ctx.mesh = mesh
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return all_reduced(gradients[0], ctx.mesh), None


class _Sum(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mesh: DeviceMesh) -> Tensor:
        return all_reduced(x, mesh)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0], None


class _Join(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, mesh: DeviceMesh) -> Tensor:
        ctx.dim, ctx.mesh = dim, mesh
        return all_gathered(x, dim, mesh)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0].chunk(ctx.mesh.size(), ctx.dim)[ctx.mesh.get_local_rank()], None, None


class _Slice(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, mesh: DeviceMesh) -> Tensor:
        ctx.dim, ctx.mesh = dim, mesh
        return x.chunk(mesh.size(), dim)[mesh.get_local_rank()].contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return all_gathered(gradients[0], ctx.dim, ctx.mesh), None, None
