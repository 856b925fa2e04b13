"""Declares how a strategy deliberately deviates from the computation of one worker. Parity checks everything else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Lossy:
    """Declared deviation of a strategy. Everything else must equal the computation of one worker."""

    limit: float | None
    """Largest relative error by formula; None if there is no bound.

    For gradients, and parameters updated by them, it is relative to the mean norm of the gradients that are averaged, not to the
    norm of their mean, which can be arbitrarily small. For parameters it is relative to the mean of the replicas' parameters
    after a step that averages them: 0 is that mean up to rounding, and None requires equal parameters on all replicas.
    """

    num_exact_steps: int = 0
    """Number of initial steps without deviation (gradients)."""

    changes: Literal["gradients", "parameters"] = "gradients"
    """``gradients``: gradients are changed, and replicas hold equal parameters. ``parameters``: each replica updates its
    parameters by its own gradients, and parameters differ between replicas until they are averaged."""

    every: int = 1
    """Number of steps between averages (parameters): after the k-th step, the 2k-th and so on."""

    @property
    def num_parity_steps(self) -> int:
        """Number of steps that the parity check needs to observe the deviation, and one step after it."""
        return self.num_exact_steps + 1 if self.changes == "gradients" else self.every + 1

    def averages(self, step: int) -> bool:
        """Returns whether replicas average their parameters after this step, counted from 0."""
        return self.changes == "parameters" and (step + 1) % self.every == 0

    @property
    def sentence(self) -> str:
        """The deviation as a clause that follows the name of the split."""
        if self.changes == "gradients":
            return "changes gradients on purpose"
        steps = "step" if self.every == 1 else f"{self.every} steps"
        return f"trains replicas with parameters of their own and averages these every {steps}"
