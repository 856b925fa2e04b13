"""Finds out how a user's loss is reduced, by computing it of a batch and of its parts."""

from __future__ import annotations

import contextlib
import itertools
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from workbench.errors import SpecError
from workbench.models.dropout_modules import SubstituteDropout
from workbench.models.user.outputs_modules import LossFunction, Result, labels_of
from workbench.models.user.samples_modules import Samples
from workbench.plan.batch_modules import call, num_samples, selected
from workbench.plan.loss_weights import IGNORED, LossReduction
from workbench.sources.failure import failure_text
from workbench.sources.source import Source
from workbench.torch_private.dispatch import tree_leaves, tree_map
from workbench.torch_private.modules import AnyBatchNorm, AnyDropout

NUM_SAMPLES = 5
"""Samples of which the loss is computed, in parts of unequal size."""
_ROUNDING, _MARGIN = 1e-13, 10.0
_PARTS = (slice(0, 2), slice(2, NUM_SAMPLES))
_TOLERANCE = 1e-6
"""Largest relative error of a loss that is computed in double precision, but for parts that insist on single precision."""


def weight_of(reduction: LossReduction, targets: Any) -> float:
    """Returns the weight of a part of a batch in the loss of the batch, given its targets."""
    if reduction == "sum":
        return 1.0
    if reduction == "targets":
        return sum(int((leaf != IGNORED).sum()) for leaf in _integers(targets))
    if reduction == "next targets":
        return sum(int((leaf[..., 1:] != IGNORED).sum()) for leaf in _integers(targets))
    return num_samples(targets)


def reduction_of_module(root: nn.Module, samples: Samples, result: Result) -> LossReduction:
    """Returns how the loss of a module on the CPU is reduced, whose parameters and mode this changes.

    Nothing else may depend on the batch, such as a batch norm: the module is in eval mode, or, if it has another loss there, in
    train mode but for its batch norms and dropouts. It computes in double precision, or in single if it does not run in that.
    """
    for dtype, trains in itertools.product((torch.float64, torch.float32), (False, True)):
        root.to(dtype).train(trains)
        for module in root.modules():
            if isinstance(module, AnyBatchNorm | AnyDropout | SubstituteDropout):
                module.eval()
        with contextlib.suppress(Exception):  # not every kernel takes double, nor every module computes a loss in eval mode
            batch = tree_map(
                lambda tensor, dtype=dtype: tensor.to(dtype) if tensor.is_floating_point() else tensor,
                (samples.inputs(NUM_SAMPLES), samples.targets(NUM_SAMPLES)),
            )
            targets_in = operator.itemgetter(1) if result.loss else lambda pair: labels_of(pair[0])
            reduction = reduction_of(lambda pair: result.of(call(root, pair[0]), pair, trains=True)[1], batch, targets_in)
            if reduction != "batch":
                return reduction
    return "batch"


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
    errors: dict[LossReduction, float] = {"sum": _error(whole, sum(losses))}
    candidates: list[LossReduction] = ["mean", "targets", "next targets"]
    for reduction in candidates:
        weights = [num_samples(part) if reduction == "mean" else weight_of(reduction, targets_in(part)) for part in parts]
        if sum(weights):
            errors[reduction] = _error(whole, sum(w * x for w, x in zip(weights, losses, strict=True)) / sum(weights))
    # Losses of parts that are almost equal fit several; only rounding is left of the right one.
    limit = min(_TOLERANCE, max(_ROUNDING, _MARGIN * min(errors.values())))
    return next((reduction for reduction in [*candidates, "sum"] if errors.get(reduction, 1.0) <= limit), "batch")


def _error(first: float, second: float) -> float:
    return abs(first - second) / max(abs(first), abs(second), 1e-300)


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
