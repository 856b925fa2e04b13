"""How much a model amplifies rounding: by how much one worker differs from itself if its parameters change by some roundings.

Batch normalization over two samples divides by their difference, layer after layer. A network of many such layers multiplies the
last bit of a parameter into everything that it computes after a step: then no comparison shows whether a split is correct.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from workbench.plan.parity import BatchDependence
from workbench.runtime.parity.errors import compare
from workbench.runtime.parity.local_tensors import LocalTensor
from workbench.runtime.parity.reference import Reference

_ROUNDINGS = 8
_MARGIN = 100.0
"""Largest error of a split, as a multiple of the movement of one worker, that rounding explains. A split rounds in every sum of
every layer, but the perturbation only in the parameters."""
_FORWARD = 1e-3
"""Largest error and movement of outputs and loss of the first step: rounding has not grown so much in one forward pass. A larger
movement is a jump, such as another choice among equal scores."""

AMPLIFIED = BatchDependence(
    "one worker differs from itself, up to a factor of 100, as much if its parameters change in the last bit, as with batch"
    " normalization over very few samples",
    "check with more samples per shard: a larger train.global_batch_size, or fewer microbatches",
)

Movements = list[dict[str, float]]
"""By step, tensor → how far it moves, as the error of a split."""


def movements(references: tuple[Reference, Reference, Reference], num_steps: int, global_norm_share: float) -> Movements | None:
    """Returns how far the tensors of each step move if the parameters of one worker change by some roundings; None if what it
    computes is not repeatable without such a change, as with random draws and state outside of the module.

    Args:
        references: one worker before its first step, three times. The parameters of the third are changed.
    """
    reference, again, perturbed = references
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in perturbed.blocks.parameters():
            if parameter.is_floating_point():
                change = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter.device)
                parameter.mul_(1 + _ROUNDINGS * torch.finfo(parameter.dtype).eps * change)
    moved = []
    for step in range(num_steps):
        tensors = reference.tensors(step)
        if any(compare(tensors, _whole(again.tensors(step)), global_norm_share).values()):
            return None
        moved.append(compare(tensors, _whole(perturbed.tensors(step)), global_norm_share))
    return moved


def _whole(tensors: dict[str, Tensor]) -> list[LocalTensor]:
    return [LocalTensor(name, (0,) * tensor.dim(), tensor) for name, tensor in tensors.items()]


def explains(moved: Movements | None, exceeding: Sequence[dict[str, float]]) -> bool:
    """Returns whether rounding explains the errors that exceed what is allowed, by step."""
    if moved is None or any(
        max(of_first.get(name, 0.0) for name in ("outputs", "loss")) > _FORWARD for of_first in (moved[0], exceeding[0])
    ):
        return False
    return all(
        math.isfinite(error) and math.isfinite(movement := by_name.get(name, 0.0)) and error <= _MARGIN * movement
        for by_name, errors in zip(moved, exceeding, strict=True)
        for name, error in errors.items()
    )
