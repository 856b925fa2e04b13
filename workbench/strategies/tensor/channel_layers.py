"""Convolutions and norms cut along channels: plain layers with a collective before or after."""

from __future__ import annotations

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.functional import batch_norm, conv2d, group_norm

from workbench.strategies.tensor.collectives import copy_to_slices, gather_slices, local, reduce_parts, sliced, take_slice


class OutputChannels(nn.Module):
    """A convolution of which each worker computes a slice of the output channels from the full input.

    Its weight (out, in, kernel, kernel) is cut along dim 0. In backward the gradient of the input is all-reduced.
    """

    def __init__(self, layer: nn.Conv2d, mesh: DeviceMesh, gather: bool) -> None:
        super().__init__()
        self.weight, self.stride, self.padding = sliced(layer.weight, 0, mesh), layer.stride, layer.padding
        self.mesh, self.gather = mesh, gather
        """``gather``: whether the slices are joined to the whole output."""

    def forward(self, x: Tensor) -> Tensor:
        x = copy_to_slices(x, self.mesh)
        y = conv2d(x, local(self.weight), None, self.stride, self.padding)
        return gather_slices(y, 1, self.mesh) if self.gather else y


class InputChannels(nn.Module):
    """A convolution of which each worker uses a slice of the input channels; the partial outputs are all-reduced.

    Its weight (out, in, kernel, kernel) is cut along dim 1. If the input is the full tensor, its gradient is all-gathered.
    """

    def __init__(self, layer: nn.Conv2d, mesh: DeviceMesh, input_is_slice: bool) -> None:
        super().__init__()
        self.weight, self.stride, self.padding = sliced(layer.weight, 1, mesh), layer.stride, layer.padding
        self.mesh, self.input_is_slice = mesh, input_is_slice

    def forward(self, x: Tensor) -> Tensor:
        local_input = x if self.input_is_slice else take_slice(x, 1, self.mesh)
        return reduce_parts(conv2d(local_input, local(self.weight), None, self.stride, self.padding), self.mesh)


def sliced_norm(layer: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Returns the norm of a slice of the channels."""
    if isinstance(layer, nn.GroupNorm):
        return SlicedGroupNorm(layer, mesh)
    assert isinstance(layer, nn.BatchNorm2d)
    return SlicedBatchNorm(layer, mesh)


class SlicedGroupNorm(nn.Module):
    """Group norm of a slice of complete groups, without communication."""

    def __init__(self, layer: nn.GroupNorm, mesh: DeviceMesh) -> None:
        super().__init__()
        self.weight, self.bias = sliced(layer.weight, 0, mesh), sliced(layer.bias, 0, mesh)
        self.num_groups, self.eps = layer.num_groups // mesh.size(), layer.eps

    def forward(self, x: Tensor) -> Tensor:
        return group_norm(x, self.num_groups, local(self.weight), local(self.bias), self.eps)


class SlicedBatchNorm(nn.Module):
    """Batch norm of a slice of the channels and of the running statistics, without communication."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, layer: nn.BatchNorm2d, mesh: DeviceMesh) -> None:
        super().__init__()
        self.weight, self.bias = sliced(layer.weight, 0, mesh), sliced(layer.bias, 0, mesh)
        assert layer.momentum is not None
        self.momentum, self.eps = layer.momentum, layer.eps
        for name in ("running_mean", "running_var"):
            self.register_buffer(name, getattr(layer, name).chunk(mesh.size())[mesh.get_local_rank()].clone())

    def forward(self, x: Tensor) -> Tensor:
        return batch_norm(
            x,
            self.running_mean,
            self.running_var,
            local(self.weight),
            local(self.bias),
            self.training,
            self.momentum,
            self.eps,
        )
