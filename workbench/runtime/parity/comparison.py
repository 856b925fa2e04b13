"""Comparison of the split with the references over the steps of a parity check, and the verdict."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from functools import partial

from workbench.plan.lossy import Lossy
from workbench.plan.parity import LOWER_ROUNDING, Verdict
from workbench.runtime.parity.errors import Errors, WorstError, compare
from workbench.runtime.parity.local_tensors import LocalTensor
from workbench.runtime.parity.reference import ReferenceStep
from workbench.runtime.parity.tolerance import Tolerance


@dataclass
class Comparison:
    """Errors of all steps so far."""

    lossy: Lossy | None
    """The declared difference between split and one worker."""

    tolerance: Tolerance
    hides_dependence: bool
    """Whether the model depends on the batch, but the difference between shards and the batch may be less than rounding."""

    lower_precision: str | None = None
    """What computes in lower precision inside the check in fp64, a clause; None if nothing does."""

    shard_errors: WorstError = field(default_factory=WorstError)
    """Against one worker that computes the same shards."""

    batch_errors: Errors = field(default_factory=Errors)
    """Against one worker that computes the whole batch at once."""

    shards_to_batch: Errors = field(default_factory=Errors)
    """Of the shards against the whole batch, both on one worker; if a declared difference hides whether sharding causes one."""

    exceeding: list[dict[str, float]] = field(default_factory=list)
    """By step, the errors against the shards that exceed rounding."""

    is_amplified: bool = False
    """Whether the model amplifies rounding to these errors, on one worker alone."""

    has_wrong_optimizer: bool = False

    def add_step(self, step: int, reference: ReferenceStep, split: list[LocalTensor]) -> bool:
        """Compares the tensors of a step. Returns whether the reference must continue from the parameters of the split."""
        rounding, share, batch = self._rounding, self.tolerance.global_norm_share, reference.whole_batch
        errors = compare(reference.shards, split, share, reference.floors)
        self.shard_errors.add(errors, partial(allowed, self.lossy, step, rounding))
        self.exceeding.append({name: error for name, error in errors.items() if not error <= rounding})
        equals_batch = self.batch_errors.add(errors if batch is None else compare(batch, split, share), rounding)
        if batch is not None and self.lossy is not None:
            shards = [LocalTensor(name, (0,) * tensor.dim(), tensor) for name, tensor in reference.shards.items()]
            self.shards_to_batch.add(compare(batch, shards, share), rounding)
        if self.lossy is not None:
            return self.lossy.limit != 0
        return equals_batch and any(not error <= rounding for error in errors.values())

    def add_optimizer(self, errors: dict[str, float], rounding: float) -> None:
        """Adds the errors of the optimizer, whose reference is a formula and not a batch."""
        self.shard_errors.add(errors, lambda name: rounding)
        self.has_wrong_optimizer = not self.batch_errors.add(errors, rounding)

    @property
    def _rounding(self) -> float:
        return max(self.tolerance.rounding, LOWER_ROUNDING) if self.lower_precision else self.tolerance.rounding

    @property
    def verdict(self) -> Verdict:
        """The verdict on the steps so far."""
        is_wrong = self.shard_errors.is_wrong
        if self.lossy is None and not self.batch_errors.wrong and (is_wrong or not self.hides_dependence):
            return "equal"
        if is_wrong:
            return "undecided" if self.is_amplified and not self.has_wrong_optimizer else "wrong"
        return "lossy" if self.lossy else "equal per shard"

    @property
    def reported_error(self) -> WorstError:
        """The error that the verdict is about."""
        error = self.shard_errors
        if self.verdict == "equal" and error.is_wrong:
            # Workers compute their shards together, as one worker computes the whole batch.
            error = WorstError(*self.batch_errors.worst, self._rounding)
        is_exact = self.verdict == "equal" and self.cause_of_rounding is None
        return replace(error, allowed=min(error.allowed, self.tolerance.rounding)) if is_exact else error

    @property
    def cause_of_rounding(self) -> str | None:
        """Why errors are larger than rounding in fp64 though the split is equal to one worker; None if they are not."""
        errors = [self.batch_errors.worst[0], 0.0 if self.shard_errors.is_wrong else self.shard_errors.error]
        return self.lower_precision if self.verdict == "equal" and max(errors) > self.tolerance.rounding else None

    @property
    def batch_dependent_tensors(self) -> set[str]:
        """Names of the tensors that differ between the shards and the whole batch; empty if the split is wrong."""
        return {"equal per shard": self.batch_errors.wrong, "lossy": self.shards_to_batch.wrong}.get(self.verdict, set())


def allowed(lossy: Lossy | None, step: int, rounding: float, tensor: str) -> float:
    """Returns the largest error of a tensor that is not a mistake, at a step."""
    if lossy is None or step < lossy.num_exact_steps or tensor in ("loss", "tokens", "outputs"):
        return rounding
    if lossy.changes == "parameters":
        return rounding + (lossy.limit or 0.0) * (lossy.averages(step) and tensor.startswith("parameter "))
    return sys.float_info.max if lossy.limit is None else rounding + lossy.limit  # any finite error
