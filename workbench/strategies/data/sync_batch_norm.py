"""Batch norm with statistics over the samples of all replicas, as in ``torch.nn.SyncBatchNorm``, also on CPU."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function
from torch.distributed.tensor import DTensor

from workbench.strategies.tensor.channel_layers import SlicedBatchNorm
from workbench.torch_private.autograd import backward_id
from workbench.torch_private.modules import AnyBatchNorm


def synchronize_batch_norms(blocks: nn.Module, group: dist.ProcessGroup) -> None:
    """Makes every batch norm in ``blocks``, full or cut by channels, use the samples of all workers of ``group``."""
    norms: list[Any] = [module for module in blocks.modules() if isinstance(module, AnyBatchNorm | SlicedBatchNorm)]
    for module in norms:
        module.forward = partial(_forward, module, group)  # parameters and buffers keep their names


@torch.compiler.disable  # type: ignore[untyped-decorator]  # its collectives cannot be traced; the rest of a block is compiled
def _forward(norm: Any, group: dist.ProcessGroup, x: Tensor) -> Tensor:
    """Computes ``nn.BatchNorm2d.forward``, (batch, channels, …) → the same shape."""
    weight, bias = (p.to_local() if isinstance(p, DTensor) else p for p in (norm.weight, norm.bias))
    if not norm.training and norm.running_mean is not None:
        return nn.functional.batch_norm(x, norm.running_mean, norm.running_var, weight, bias, eps=norm.eps)
    outputs, mean, variance = _SynchronizedNorm.apply(x, weight, bias, norm.eps, group)
    is_recomputed = backward_id() is not None  # by activation checkpointing, in backward
    if norm.training and norm.running_mean is not None and not is_recomputed:
        with torch.no_grad():
            _update_running_statistics(norm, mean, variance, _count(x) * group.size())
    return outputs


def _update_running_statistics(norm: Any, mean: Tensor, variance: Tensor, count: int) -> None:
    """Updates the running statistics as ``nn.BatchNorm2d``, with the unbiased variance."""
    momentum = norm.momentum
    if (num_batches := getattr(norm, "num_batches_tracked", None)) is not None:
        num_batches.add_(1)
        momentum = 1 / float(num_batches) if momentum is None else momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
    norm.running_var.lerp_((variance * (count / (count - 1))).to(norm.running_var.dtype), momentum)


class _SynchronizedNorm(Function):
    """(x − mean) / √(variance + eps) × weight + bias over the x of all workers, which have equal shapes.

    Forward all-gathers the mean and variance of each worker and combines them as Chan et al. (1983), without cancellation for
    large means. Backward all-reduces the two sums in the gradient of x (Ioffe and Szegedy 2015, section 3). Statistics are in at
    least single precision.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, group: dist.ProcessGroup
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype = torch.promote_types(x.dtype, torch.float32)
        variance, mean = torch.var_mean(x.to(dtype), _dims(x), correction=0)
        statistics = torch.stack([mean, variance])
        gathered = list(statistics.new_empty(group.size(), *statistics.shape).unbind())
        dist.all_gather(gathered, statistics, group=group)
        means, variances = torch.stack(gathered).unbind(1)  # each (workers, channels)
        mean = means.mean(0)
        variance = variances.mean(0) + (means - mean).square().mean(0)
        scale = (variance + eps).rsqrt()
        normal = (x - _channels(mean, x)) * _channels(scale, x)
        outputs = normal if weight is None else normal * _channels(weight, x)
        outputs = outputs if bias is None else outputs + _channels(bias, x)
        ctx.save_for_backward(x, weight, mean, scale)
        ctx.group, ctx.bias_dtype = group, None if bias is None else bias.dtype
        ctx.mark_non_differentiable(mean, variance)
        return outputs.to(x.dtype), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        gradient, (x, weight, mean, scale) = gradients[0], ctx.saved_tensors
        normal = (x - _channels(mean, x)) * _channels(scale, x)
        dims, gradient = _dims(x), gradient.to(normal.dtype)
        sums = torch.stack([gradient.sum(dims), (gradient * normal).sum(dims)])
        bias_gradient, weight_gradient = sums.clone()
        dist.all_reduce(sums, group=ctx.group)
        first, second = sums / (_count(x) * ctx.group.size())
        x_gradient = (gradient - _channels(first, x) - normal * _channels(second, x)) * _channels(scale, x)
        x_gradient = x_gradient if weight is None else x_gradient * _channels(weight, x)
        return (
            x_gradient.to(x.dtype),
            None if weight is None else weight_gradient.to(weight.dtype),
            None if ctx.bias_dtype is None else bias_gradient.to(ctx.bias_dtype),
            None,
            None,
        )


def _dims(x: Tensor) -> tuple[int, ...]:
    """Returns all dims except that of the channels."""
    return (0, *range(2, x.dim()))


def _count(x: Tensor) -> int:
    """Returns the number of elements per channel."""
    return x.numel() // x.shape[1]


def _channels(values: Tensor, x: Tensor) -> Tensor:
    """Reshapes (channels,) so that it broadcasts over x."""
    return values.view(-1, *[1] * (x.dim() - 2))
