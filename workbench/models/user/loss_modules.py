"""Finds out how a user's loss is reduced, by computing it of a batch and of its parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from workbench.errors import SpecError
from workbench.models.user.outputs_modules import LossFunction
from workbench.plan.batch_modules import num_samples, selected
from workbench.plan.loss_weights import IGNORED, LossReduction
from workbench.sources.failure import failure_text
from workbench.sources.source import Source
from workbench.torch_private.dispatch import tree_leaves, tree_map

NUM_SAMPLES = 5
"""Samples of which the loss is computed, in parts of unequal size."""
_PARTS = (slice(0, 2), slice(2, NUM_SAMPLES))
_TOLERANCE = 1e-4
"""Relative error of sums in single precision."""


def weight_of(reduction: LossReduction, targets: Any) -> float:
    """Returns the weight of a part of a batch in the loss of the batch, given its targets."""
    if reduction == "sum":
        return 1.0
    if reduction == "targets":
        return sum(int((leaf != IGNORED).sum()) for leaf in _integers(targets))
    if reduction == "next targets":
        return sum(int((leaf[..., 1:] != IGNORED).sum()) for leaf in _integers(targets))
    return num_samples(targets)


def reduction_of(loss: Callable[[Any], Tensor], batch: Any, targets_in: Callable[[Any], Any]) -> LossReduction:
    """Returns the reduction of a loss.

    Args:
        loss: given a batch of any number of samples, returns its loss.
        batch: ``NUM_SAMPLES`` samples.
        targets_in: given a batch, returns the targets in it.
    """
    try:
        ignoring = _with_ignored(batch, targets_in(batch))
        return _reduction(loss, ignoring, targets_in)
    except Exception:  # noqa: BLE001 - not every loss ignores targets, and one that does not may raise anything
        return _reduction(loss, batch, targets_in)


def checked_loss(function: Callable[..., Any], source: Source) -> LossFunction:
    """Returns a user's loss, which raises an error in a sentence if it fails or returns no loss.

    Raises:
        SpecError: from the returned function; the message has the user's own file and line.
    """

    def loss(outputs: Any, targets: Any) -> Tensor:
        try:
            with source.imports():
                value = function(outputs, targets)
        except Exception as error:
            doing = f"{source.label}(outputs, targets)"
            raise SpecError(source.field, failure_text(error, doing, source.folder, source.path)) from error
        if not isinstance(value, Tensor) or value.dim() or not value.is_floating_point():
            found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise SpecError(
                source.field, f"{source.label} must return the loss, a scalar tensor of floating point, but returned {found}"
            )
        return value

    return loss


def _reduction(loss: Callable[[Any], Tensor], batch: Any, targets_in: Callable[[Any], Any]) -> LossReduction:
    with torch.no_grad():
        whole = float(loss(batch))
        parts = [selected(batch, part) for part in _PARTS]
        losses = [float(loss(part)) for part in parts]
    candidates: list[LossReduction] = ["mean", "targets", "next targets"]
    for reduction in candidates:
        weights = [weight_of(reduction, targets_in(part)) for part in parts]
        if sum(weights) and _equal(whole, sum(w * x for w, x in zip(weights, losses, strict=True)) / sum(weights)):
            return reduction
    return "sum" if _equal(whole, sum(losses)) else "batch"


def _equal(first: float, second: float) -> bool:
    return abs(first - second) <= _TOLERANCE * max(abs(first), abs(second))


def _with_ignored(batch: Any, targets: Any) -> Any:
    """Returns the batch with some of the integer targets ignored: more of the first part, and none entirely."""
    chosen = {id(leaf) for leaf in _integers(targets)}

    def ignore(tensor: Tensor) -> Tensor:
        if id(tensor) not in chosen:
            return tensor
        tensor = tensor.clone()
        tensor[0].fill_(IGNORED) if tensor.dim() == 1 else tensor[0, : tensor.shape[1] // 2].fill_(IGNORED)
        return tensor

    return tree_map(ignore, batch)


def _integers(targets: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(targets) if leaf.dtype == torch.int64]
