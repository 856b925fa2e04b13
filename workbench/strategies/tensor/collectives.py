"""Differentiable collectives, and parameters cut into slices.

A tensor is *replicated* (equal on every worker), a *slice* (each worker has different entries) or *partial* (its value is the
sum over the workers). The gradient of a replicated tensor is replicated, that of a slice is a slice. If sliced layers use a
replicated tensor, each worker computes a partial gradient, which ``copy_to_slices`` sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from workbench.strategies.tensor.simulated import SimulatedMesh
from workbench.torch_private.distributed import AsyncCollectiveTensor

AnyMesh = DeviceMesh | SimulatedMesh


def part_of(whole: Tensor, dim: int, sections: Sequence[int], size: int, rank: int) -> Tensor:
    """Returns a worker's slice of a tensor: of each section along ``dim``, if there are any."""
    if not sections:
        return whole.chunk(size, dim)[rank]
    return torch.cat([section.chunk(size, dim)[rank] for section in whole.split(list(sections), dim)], dim)


def sliced(parameter: Tensor, dim: int, mesh: AnyMesh, sections: Sequence[int] = ()) -> nn.Parameter:
    """Returns the local slice of a parameter along ``dim``, as a DTensor; as a plain tensor on a simulated worker. With sections,
    the whole DTensor has the parts of the first worker first."""
    local_slice = part_of(parameter.detach(), dim, sections, mesh.size(), mesh.get_local_rank()).clone()
    if isinstance(mesh, SimulatedMesh):
        return nn.Parameter(local_slice, requires_grad=parameter.requires_grad)
    return nn.Parameter(DTensor.from_local(local_slice, mesh, [Shard(dim)]), requires_grad=parameter.requires_grad)


def local(parameter: nn.Parameter) -> Tensor:
    """Returns the local slice as a plain tensor; gradients flow back to the DTensor."""
    assert isinstance(parameter, DTensor)
    return parameter.to_local()


def copy_to_slices(x: Tensor, mesh: AnyMesh) -> Tensor:
    """Identity forward, all-reduce of the partial gradients backward: *f* of Megatron-LM."""
    return _SumGradient.apply(x, mesh)


def reduce_parts(x: Tensor, mesh: AnyMesh) -> Tensor:
    """All-reduce of the partial results forward, identity backward: *g* of Megatron-LM."""
    return _Sum.apply(x, mesh)


def reduce_for_slices(x: Tensor, mesh: DeviceMesh) -> Tensor:
    """All-reduce forward and backward, for sums that sliced layers use again."""
    return copy_to_slices(reduce_parts(x, mesh), mesh)


def gather_slices(x: Tensor, dim: int, mesh: AnyMesh) -> Tensor:
    """All-gather of equal slices along ``dim`` forward, local slice of the gradient backward."""
    return _Join.apply(x, dim, mesh)


def take_slice(x: Tensor, dim: int, mesh: DeviceMesh) -> Tensor:
    """Local slice of x along ``dim`` forward, all-gather of the gradient backward."""
    return _Slice.apply(x, dim, mesh)


def arrived(x: Tensor) -> Tensor:
    """Waits for an asynchronous collective of DTensor, so that a stage can send the result."""
    return _Wait.apply(x)


def all_reduced(x: Tensor, mesh: AnyMesh) -> Tensor:
    """Returns the sum over the workers in a new tensor."""
    if isinstance(mesh, SimulatedMesh):
        return mesh.all_reduced(x)
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=mesh.get_group())
    return total


def all_gathered(x: Tensor, dim: int, mesh: AnyMesh) -> Tensor:
    """Returns the equal slices of all workers, concatenated along ``dim``."""
    if isinstance(mesh, SimulatedMesh):
        return mesh.all_gathered(x, dim)
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
    def forward(ctx: Any, x: Tensor, mesh: AnyMesh) -> Tensor:
        ctx.mesh = mesh
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return all_reduced(gradients[0], ctx.mesh), None


class _Sum(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mesh: AnyMesh) -> Tensor:
        return all_reduced(x, mesh)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0], None


class _Join(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, mesh: AnyMesh) -> Tensor:
        ctx.dim, ctx.mesh = dim, mesh
        return all_gathered(x, dim, mesh)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0].chunk(ctx.mesh.size(), ctx.dim)[ctx.mesh.get_local_rank()], None, None


class _Slice(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, mesh: AnyMesh) -> Tensor:
        ctx.dim, ctx.mesh = dim, mesh
        return x.chunk(mesh.size(), dim)[mesh.get_local_rank()].contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return all_gathered(gradients[0], ctx.dim, ctx.mesh), None, None
