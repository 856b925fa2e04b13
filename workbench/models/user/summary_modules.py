"""What a planner needs to know about a user's module: its blocks, parameters, shapes and FLOPs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from workbench.errors import SpecError
from workbench.models.inferred_modules import batch_norms_of, ties_of
from workbench.models.user.outputs_modules import Result, main_output
from workbench.models.user.samples_modules import Samples
from workbench.models.user.stage_modules import HeldParameters
from workbench.models.user.structure_modules import WHOLE, Structure
from workbench.plan.batch_modules import call
from workbench.plan.model_summary import BatchNorm, BlockSummary, ModelSummary, ParameterSummary
from workbench.torch_private.modules import AnyBatchNorm

_SAMPLES = 2  # batch norm rejects a single sample


def modules_of_blocks(root: nn.Module, structure: Structure | None) -> dict[str, nn.Module]:
    """Returns the module of each block: the root, if it cannot be cut, else its units and what holds the other parameters."""
    if structure is None:
        return {WHOLE: root}
    return {
        block.name: HeldParameters({name.rpartition(".")[2]: root.get_parameter(name) for name in block.parameters})
        if block.parameters
        else root.get_submodule(block.path)
        for block in structure.blocks
    }


def summary_of_module(name: str, root: nn.Module, structure: Structure | None, samples: Samples, result: Result) -> ModelSummary:
    """Returns the summary of a module, from a forward and a backward pass over two samples.

    Args:
        name: name of the model in messages.
        root: the module, on the device of the samples.
        structure: its structure; None if it cannot be cut.
        samples: batches on that device.
        result: what its last block returns.

    Raises:
        SpecError: it does not return a floating-point tensor with the samples as dim 0, or its loss is none.
    """
    counted = dict.fromkeys(structure.units if structure else (), 0)
    with FlopCounterMode(display=False) as total, ExitStack() as counters:
        for path in counted:
            counters.enter_context(_counting(root.get_submodule(path), counted, path))
        inputs = samples.inputs(_SAMPLES)
        returned = call(root, inputs)
    output = main_output(returned)
    if not isinstance(output, Tensor) or not output.is_floating_point() or not output.dim() or len(output) != _SAMPLES:
        found = (
            f"a tensor of {tuple(output.shape)} for {_SAMPLES} samples" if isinstance(output, Tensor) else type(output).__name__
        )
        raise SpecError("model.name", f"{name} must return a tensor of outputs with the samples as dim 0, but returns {found}")
    trained_by = output
    if result.has_loss:
        trained_by = result.of(returned, (inputs, samples.targets(_SAMPLES)), trains=True)[1]
    used, modules = _used(root, trained_by), modules_of_blocks(root, structure)
    parameters = {
        block: tuple(
            ParameterSummary(
                f"{block}.{key}", tuple(p.shape), requires_grad=p.requires_grad, is_used=not p.requires_grad or p in used
            )
            for key, p in module.named_parameters()
        )
        for block, module in modules.items()
    }
    shape, flops = tuple(output.shape[1:]), total.get_total_flops() // _SAMPLES
    if structure is None:
        blocks = [BlockSummary(WHOLE, parameters[WHOLE], shape, flops)]
    else:
        blocks = _blocks(structure, parameters, [counted[path] // _SAMPLES for path in structure.units], flops, shape)
    return ModelSummary(
        name, tuple(blocks), copied_at=_copied_at(structure), ties=ties_of(modules), batch_norms=_batch_norms(root, modules)
    )


def _batch_norms(root: nn.Module, modules: Mapping[str, nn.Module]) -> tuple[BatchNorm, ...]:
    """Returns the batch norms in blocks, and those without parameters between them, as of the first block."""
    of_blocks = {module for block in modules.values() for module in block.modules()}
    between = (item for item in root.named_modules() if isinstance(item[1], AnyBatchNorm) and item[1] not in of_blocks)
    first = next(iter(modules))
    return (*batch_norms_of(modules), *(BatchNorm(f"{first}.{path}", layer.num_features) for path, layer in between))


def _blocks(
    structure: Structure,
    parameters: Mapping[str, tuple[ParameterSummary, ...]],
    flops: list[int],
    total_flops: int,
    shape: tuple[int, ...],
) -> list[BlockSummary]:
    """Returns the blocks; the FLOPs of the code between the units are those of the last."""
    blocks, last = [], len(structure.blocks) - 1
    read_outside = structure.blocks_read_outside
    for index, block in enumerate(structure.blocks):
        first, end = structure.first_unit(index), block.last_unit + 1
        crossing = (
            tuple(structure.shape(origin) or () for origin in structure.carry(index)) if index in structure.cut_points else ()
        )
        blocks.append(
            BlockSummary(
                block.name,
                parameters[block.name],
                shape if index == last else crossing[0] if crossing else (),
                sum(flops[first:end]) + (total_flops - sum(flops) if index == last else 0),
                crossing=None if index == last else crossing,
                is_called=block.name not in read_outside,
                alias=structure.alias(block),
            )
        )
    return blocks


def _copied_at(structure: Structure | None) -> frozenset[int]:
    if structure is None:
        return frozenset()
    written = structure.flow.written_outside
    return frozenset(cut for cut in structure.cut_points if written.intersection(structure.carry(cut)))


@contextmanager
def _counting(unit: nn.Module, counts: dict[str, int], path: str) -> Iterator[None]:
    """Adds the FLOPs of each call of a unit to ``counts``."""
    counter = FlopCounterMode(display=False)

    def leave(module: nn.Module, args: object, output: object) -> None:
        counter.__exit__(None, None, None)
        counts[path] += counter.get_total_flops()

    hooks = [unit.register_forward_pre_hook(lambda module, args: counter.__enter__() and None), unit.register_forward_hook(leave)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _used(root: nn.Module, output: Tensor) -> set[nn.Parameter]:
    """Returns the trained parameters that the output depends on."""
    trained = [p for p in root.parameters() if p.requires_grad]
    if not output.requires_grad:
        return set()
    gradients = torch.autograd.grad(output, trained, torch.empty_like(output), allow_unused=True)
    return {parameter for parameter, gradient in zip(trained, gradients, strict=True) if gradient is not None}
