"""Infers what a planner needs to know about blocks, by passing samples without data through them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from workbench.errors import SpecError
from workbench.plan.model_summary import BatchNorm, BlockSummary, ModelSummary, ParameterSummary, Tie
from workbench.torch_private.modules import AnyBatchNorm

if TYPE_CHECKING:
    from workbench.models.inferred import OwnModel

_BATCH = 2  # batch norm rejects a single sample


def summary_of(model: OwnModel[Any]) -> ModelSummary:
    """Infers the summary of a model on the ``meta`` device, from a forward pass and, if a parameter is trained, a backward pass.

    A parameter or module object in several blocks is tied to its first name.

    Raises:
        SpecError: a block raises an error or returns no tensor; or a parameter was created before ``blocks`` was called, so that
            all builds of the model would share it.
    """
    dtype = torch.int64 if model.data.kind == "tokens" else torch.float32
    passed = torch.zeros((_BATCH, *model.data.input_shape), dtype=dtype, device="meta")
    with torch.device("meta"):
        modules = {name: _made(model, name, make) for name, make in model.blocks().items()}
    for block, module in modules.items():
        for key, parameter in module.named_parameters():
            if not parameter.is_meta:
                raise SpecError(
                    "model.name",
                    f"{model.name} creates {block}.{key} on {parameter.device} outside blocks(), so that all workers and the"
                    " parity check would train the same tensor; create it inside blocks()",
                )
    summaries: list[BlockSummary] = []
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    for name, module in modules.items():
        passed = passed.detach().requires_grad_(bool(outputs) and outputs[-1].requires_grad)
        inputs.append(passed)
        with FlopCounterMode(display=False) as counter:
            passed = _attempt(model, name, partial(module, passed))
        if not isinstance(passed, Tensor):
            raise SpecError(
                "model.name", f"block {name!r} of {model.name} must return one tensor, but returns {type(passed).__name__}"
            )
        outputs.append(passed)
        summaries.append(
            BlockSummary(name, _parameters(name, module), tuple(passed.shape[1:]), counter.get_total_flops() // _BATCH)
        )
    used, backward, is_needed = set[int](), [], True
    for (name, module), x, y in reversed(list(zip(modules.items(), inputs, outputs, strict=True))):
        found_of = partial(_backward, module, x, y)
        of_block, is_needed, flops = _attempt(model, name, found_of) if is_needed else ([], False, 0)
        used |= {id(p) for p in of_block}
        backward.append(flops)
    for position, (name, module) in enumerate(modules.items()):
        named = {f"{name}.{key}": p for key, p in module.named_parameters()}
        declared = summaries[position].parameters
        parameters = (replace(p, is_used=not p.requires_grad or id(named[p.name]) in used) for p in declared)
        summaries[position] = replace(summaries[position], parameters=tuple(parameters))
    norms = batch_norms_of(modules)
    result = ModelSummary(model.name, tuple(summaries), model.groups(), ties_of(modules), batch_norms=norms)
    if all(p.has_gradient for p in result.parameters):
        return result  # by convention, backward takes twice the FLOPs of forward, including the gradient of the samples
    counted = [replace(s, backward_flops=flops) for s, flops in zip(summaries, reversed(backward), strict=True)]
    return replace(result, blocks=tuple(counted))


def _attempt(model: OwnModel[Any], block: str, compute: Callable[[], Any]) -> Any:
    """Returns the result of ``compute``.

    Raises:
        SpecError: ``compute`` raised an exception, which becomes the cause of this one.
    """
    try:
        return compute()
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
        raise SpecError(
            "model.name", f"block {block!r} of {model.name} failed on {_BATCH} samples on torch's meta device: {reason}"
        ) from error


def _made(model: OwnModel[Any], block: str, make: Callable[[], nn.Module]) -> nn.Module:
    if isinstance(make, nn.Module):
        raise SpecError(
            "model.name",
            f"block {block!r} of {model.name} must be a function that creates the module, such as lambda: …, but got a module",
        )
    return make()


def _parameters(block: str, module: nn.Module) -> tuple[ParameterSummary, ...]:
    return tuple(
        ParameterSummary(f"{block}.{key}", tuple(p.shape), requires_grad=p.requires_grad) for key, p in module.named_parameters()
    )


def _backward(module: nn.Module, inputs: Tensor, outputs: Tensor) -> tuple[list[nn.Parameter], bool, int]:
    """Returns the parameters of one block that its output depends on, whether the output depends on the input, so that backward
    continues to the previous block, and the FLOPs of the backward pass per sample."""
    if not outputs.requires_grad:
        return [], False, 0
    trained = [p for p in module.parameters() if p.requires_grad]
    differentiated: list[Tensor] = [*trained, *([inputs] if inputs.requires_grad else [])]
    with FlopCounterMode(display=False) as counter:
        gradients = torch.autograd.grad(outputs, differentiated, torch.empty_like(outputs), allow_unused=True)
    used = [p for p, gradient in zip(trained, gradients, strict=False) if gradient is not None]
    return used, inputs.requires_grad and gradients[-1] is not None, counter.get_total_flops() // _BATCH


def batch_norms_of(modules: Mapping[str, nn.Module]) -> tuple[BatchNorm, ...]:
    """Returns the batch norms in blocks."""
    return tuple(
        BatchNorm(path, layer.num_features)
        for name, module in modules.items()
        for path, layer in module.named_modules(prefix=name)
        if isinstance(layer, AnyBatchNorm)
    )


def ties_of(modules: Mapping[str, nn.Module]) -> tuple[Tie, ...]:
    """Returns the ties of parameters in several blocks, each to the first name."""
    first: dict[int, tuple[str, str]] = {}
    ties = []
    for block, module in modules.items():
        for key, parameter in module.named_parameters():
            name = f"{block}.{key}"
            origin, source = first.setdefault(id(parameter), (block, name))
            if origin != block:
                ties.append(Tie(name, source))
    return tuple(ties)
