"""Report of a parity check."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict, dataclass
from typing import Any

from workbench.plan.parity import Verdict
from workbench.plan.plan import Plan
from workbench.runtime.parity.amplification import AMPLIFIED
from workbench.runtime.parity.comparison import Comparison
from workbench.runtime.parity.errors import undeclared
from workbench.runtime.parity.replicas import has_local_parameters


@dataclass(frozen=True)
class ParityReport:
    """Verdict of a parity check, with the largest error and its tensor."""

    ok: bool | None
    """Whether split and reference agree, on the whole batch or on each shard; None if they differ as declared, within the
    allowed error, or if the check cannot decide it."""

    max_error: float
    """Largest error against one worker that computes the same shards, or the whole batch if only that agrees."""

    tensor: str
    num_steps: int
    precision: str
    allowed: float | None
    """Largest error of this tensor that is not a mistake; None if the strategy states no bound."""

    on_purpose: str | None
    """The declared difference between split and one worker, as a clause; None if there is none."""

    verdict: Verdict
    whole_batch_error: float | None
    """Largest error against one worker that computes the whole batch at once; None if replicas have parameters of their own."""

    whole_batch_tensor: str | None
    cause: str | None = None
    """Why the whole batch and its shards give different results; or, if the verdict is ``equal``, what computes in lower
    precision; or, if it is ``undecided``, that the model amplifies rounding; or, if it is ``wrong``, the state that the module
    keeps between calls. None if there is none of these."""

    remedy: str | None = None
    """Change to the model that removes this difference."""

    is_without_dropout: bool = False
    """Whether dropout with masks that may depend on the split was turned off."""

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields of the parity event. JSON has no infinity: an infinite error becomes None."""
        errors = {"max_error": self.max_error, "whole_batch_error": self.whole_batch_error}
        return {
            **asdict(self),
            **{k: error if error is not None and math.isfinite(error) else None for k, error in errors.items()},
        }


def parity_report(plan: Plan, comparison: Comparison, num_steps: int, is_without_dropout: bool) -> ParityReport:
    """Returns the report on a comparison of ``num_steps`` steps."""
    lossy, verdict, error = plan.lossy, comparison.verdict, comparison.reported_error
    dependence = None
    if comparison.batch_dependent_tensors or verdict == "equal per shard":
        dependence = plan.model.batch_dependence or undeclared(comparison.batch_dependent_tensors)
    elif verdict == "undecided":
        dependence = AMPLIFIED
    elif verdict == "wrong" and plan.full_model.state:
        dependence = plan.full_model.state.dependence
    whole_batch_error, whole_batch_tensor = (None, None) if has_local_parameters(lossy) else comparison.batch_errors.worst
    return ParityReport(
        ok={"wrong": False, "lossy": None, "undecided": None}.get(verdict, True),
        max_error=error.error,
        tensor=error.tensor,
        num_steps=num_steps,
        precision=plan.spec.measure.parity_precision,
        allowed=error.allowed if error.allowed < sys.float_info.max else None,
        on_purpose=lossy.sentence if lossy else None,
        verdict=verdict,
        whole_batch_error=whole_batch_error,
        whole_batch_tensor=whole_batch_tensor,
        cause=dependence.cause if dependence else comparison.cause_of_rounding,
        remedy=dependence.remedy if dependence else None,
        is_without_dropout=is_without_dropout,
    )
