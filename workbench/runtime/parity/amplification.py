"""How much a model amplifies rounding: by how much one worker differs from itself if its parameters change by some roundings.

Batch normalization over two samples divides by their difference, layer after layer. A network of many such layers multiplies the
last bit of a parameter into everything that it computes after a step: then no comparison shows whether a split is correct.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from workbench.plan.parity import BatchDependence
from workbench.runtime.parity.errors import compare
from workbench.runtime.parity.local_tensors import LocalTensor
from workbench.runtime.parity.reference import Reference

_ROUNDINGS = 8
_MARGIN = 100.0
"""Largest error of a split, as a multiple of the movement of one worker, that rounding explains. A split rounds in every sum of
every layer, but the perturbation only in the parameters."""

AMPLIFIED = BatchDependence(
    "one worker differs from itself by as much if its parameters change in the last bit, as with batch normalization over very"
    " few samples",
    "check with more samples per shard: a larger train.global_batch_size, or fewer microbatches",
)

Movements = list[dict[str, float]]
"""By step, tensor → how far it moves, as the error of a split."""


def movements(reference: Reference, perturbed: Reference, num_steps: int, global_norm_share: float) -> Movements:
    """Returns how far the tensors of each step move if the parameters of one worker change by some roundings.

    Args:
        reference: one worker before its first step.
        perturbed: the same once more, whose parameters are changed.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in perturbed.blocks.parameters():
            if parameter.is_floating_point():
                change = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter.device)
                parameter.mul_(1 + _ROUNDINGS * torch.finfo(parameter.dtype).eps * change)
    moved = []
    for step in range(num_steps):
        tensors = perturbed.tensors(step).items()
        whole = [LocalTensor(name, (0,) * tensor.dim(), tensor) for name, tensor in tensors]
        moved.append(compare(reference.tensors(step), whole, global_norm_share))
    return moved


def explains(moved: Movements, exceeding: Sequence[dict[str, float]]) -> bool:
    """Returns whether rounding explains the errors that exceed what is allowed, by step."""
    return all(
        error <= _MARGIN * by_name.get(name, 0.0)
        for by_name, errors in zip(moved, exceeding, strict=True)
        for name, error in errors.items()
    )
