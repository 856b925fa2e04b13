"""Finds what a user's module consists of: one block with all of it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from workbench.errors import SpecError
from workbench.models.user.source import built
from workbench.plan.model_summary import BatchNorm, BlockSummary, ModelSummary, ParameterSummary
from workbench.torch_private.modules import AnyBatchNorm

if TYPE_CHECKING:
    from workbench.data.base import DatasetSummary
    from workbench.models.user import UserModelOptions

BLOCK = "model"
_BATCH = 2  # batch norm rejects a single sample


def module_of(made: Any, label: str) -> nn.Module:
    """Returns what the callable returned, if that is a module.

    Raises:
        SpecError: it is not.
    """
    if isinstance(made, type) and issubclass(made, nn.Module):
        raise SpecError("model.name", f"{label} returns the class {made.__name__}, not a module; name the class itself")
    if not isinstance(made, nn.Module):
        raise SpecError("model.name", f"{label} must return an nn.Module, but returned {type(made).__name__}")
    return made


def inspect_module(module: nn.Module, data: DatasetSummary, options: UserModelOptions, name: str) -> ModelSummary:
    """Returns the summary of a module, found by passing samples without data through it."""
    module = module.to("meta")
    dtype = torch.int64 if data.kind == "tokens" else torch.float32
    samples = torch.zeros((_BATCH, *data.input_shape), dtype=dtype, device="meta")
    with FlopCounterMode(display=False) as counter:
        outputs = _attempt(name, partial(module, samples))
    flops = counter.get_total_flops() // _BATCH
    if not isinstance(outputs, Tensor):
        raise SpecError("model.name", f"{name} must return one tensor, but returns {type(outputs).__name__}")
    used = _used(module, outputs)
    parameters = tuple(
        ParameterSummary(
            f"{BLOCK}.{key}", tuple(p.shape), requires_grad=p.requires_grad, is_used=not p.requires_grad or key in used
        )
        for key, p in module.named_parameters()
    )
    norms = tuple(
        BatchNorm(path, layer.num_features)
        for path, layer in module.named_modules(prefix=BLOCK)
        if isinstance(layer, AnyBatchNorm)
    )
    block = BlockSummary(BLOCK, parameters, tuple(outputs.shape[1:]), flops)
    return replace(ModelSummary(name, (block,)), batch_norms=norms)


def built_block(options: UserModelOptions, block: str) -> nn.Module:
    """Returns a block with newly initialized parameters."""
    assert block == BLOCK, "the only one"
    source = options.source
    return module_of(built(source, options.options, "model.options"), source.label)


def _used(module: nn.Module, outputs: Tensor) -> set[str]:
    """Returns the names of the trained parameters that the output depends on."""
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not outputs.requires_grad:
        return set()
    gradients = torch.autograd.grad(outputs, list(trained.values()), torch.empty_like(outputs), allow_unused=True)
    return {name for name, gradient in zip(trained, gradients, strict=True) if gradient is not None}


def _attempt(name: str, compute: Any) -> Any:
    try:
        return compute()
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
        raise SpecError("model.name", f"{name} failed on {_BATCH} samples on torch's meta device: {reason}") from error
