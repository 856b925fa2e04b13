"""Errors of a parity check, and the batch dependence that they reveal in a model that declares none."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from workbench.plan.parity import BatchDependence
from workbench.runtime.parity.local_tensors import LocalTensor


def compare(
    reference: dict[str, Tensor], gathered: list[LocalTensor], global_norm_share: float, floors: Mapping[str, float] = {}
) -> dict[str, float]:
    """Returns the error of each tensor, by name.

    The error is infinite for a tensor that the local tensors do not cover, and for a gradient that only one side has. Of
    those with the same offset (replicas) the worst counts. The parts of the loss are added.

    Args:
        global_norm_share: Share of the norm of all tensors of a kind that is the least denominator of their errors.
        floors: Least denominators of single tensors, by name.
    """
    by_name: dict[str, list[LocalTensor]] = {}
    for part in gathered:
        by_name.setdefault(part.name, []).append(part)
    errors: dict[str, float] = {}
    for kind in ("loss", "tokens", "outputs", "gradient of ", "parameter "):
        names = [name for name in reference if name.startswith(kind)]
        norms = {name: float(reference[name].nan_to_num(math.nan, 0.0, 0.0).norm()) for name in names}
        global_norm = math.sqrt(sum(norm**2 for norm in norms.values()))
        for name in names:
            difference = _difference(reference[name], by_name.get(name, []), is_sum=name == "loss")
            scale = max(norms[name], global_norm_share * global_norm, floors.get(name, 0.0))
            error = difference / scale if scale else difference
            errors[name] = math.inf if math.isnan(error) else error
    errors.update({name: math.inf for name in by_name if name.startswith("gradient of ") and name not in reference})
    return errors


def _difference(reference: Tensor, local_tensors: list[LocalTensor], is_sum: bool) -> float:
    """Returns ‖split − reference‖ of a full tensor."""
    if is_sum:
        parts: dict[tuple[int, ...], Tensor] = {}
        disagreement = 0.0  # workers that have the same part must agree on it
        for part in local_tensors:
            values = part.values.to(reference.device)
            disagreement += float((values - parts.setdefault(part.offset, values)).norm())
        return disagreement + float((sum(parts.values(), torch.zeros_like(reference)) - reference).norm())
    squares: dict[tuple[int, ...], float] = {}
    covered = torch.zeros(reference.shape, dtype=torch.bool)
    for part in local_tensors:
        at = part.slices
        if reference[at].shape != part.values.shape:
            return math.inf
        square = float(_distance(part.values.to(reference.device), reference[at])) ** 2
        if math.isnan(square):  # which max() would drop
            return math.inf
        squares[part.offset] = max(squares.get(part.offset, 0.0), square)
        covered[at] = True
    return math.sqrt(sum(squares.values())) if bool(covered.all()) else math.inf


def _distance(values: Tensor, reference: Tensor) -> Tensor:
    """Returns ‖values − reference‖ without infinities that both have, such as scores of classes that a model masks."""
    return (values - reference).masked_fill(values.isinf() & (values == reference), 0.0).norm()


@dataclass
class Errors:
    """Accumulates the errors against one reference over all steps."""

    worst: tuple[float, str] = (0.0, "none")
    """Largest error and its tensor."""

    wrong: set[str] = field(default_factory=set)
    """Names of tensors whose error exceeded rounding at any step."""

    def add(self, errors: Mapping[str, float], rounding: float) -> bool:
        """Adds the errors of a step. Returns whether all of them are rounding."""
        self.worst = max([self.worst, *((error, name) for name, error in errors.items())])
        wrong = {name for name, error in errors.items() if not error <= rounding}
        self.wrong |= wrong
        return not wrong


@dataclass
class WorstError:
    """The error that a report names: the largest one. If errors exceed what is allowed, it is the one that does so by the
    largest factor at the first such step, since errors of later steps follow from it."""

    error: float = 0.0
    tensor: str = "none"
    allowed: float = 0.0
    is_wrong: bool = False

    def add(self, errors: Mapping[str, float], allowed: Callable[[str], float]) -> None:
        """Adds the errors of a step, each with its allowed error."""
        if self.is_wrong:
            return
        for name, error in errors.items():
            bound = allowed(name)
            candidate = WorstError(error, name, bound, not error <= bound)
            if self.tensor == "none" or candidate._rank > self._rank:
                self.error, self.tensor, self.allowed, self.is_wrong = error, name, bound, candidate.is_wrong

    @property
    def _rank(self) -> tuple[bool, float, float]:
        return self.is_wrong, self.error / self.allowed if self.is_wrong else 0.0, self.error


def undeclared(wrong: set[str]) -> BatchDependence:
    """Infers the batch dependence of a model that declares none from the tensors that differ on the whole batch."""
    if "outputs" in wrong:
        return BatchDependence(
            "the outputs of a sample depend on other samples, which the model does not declare (Model.batch_dependence)",
            "use group or layer normalization, SyncBatchNorm or frozen statistics",
        )
    if "loss" in wrong:
        return BatchDependence(
            "the loss of the batch is not the mean of the losses of its shards, weighted by Model.loss_weight",
            "make the loss a mean over targets, of which -100 marks those that do not count (a plugin returns their number as"
            " Model.loss_weight); a contrastive loss requires one shard",
        )
    return BatchDependence(
        "gradients have a term that is computed per shard, such as that of an auxiliary loss",
        "remove that term",
    )
