"""What a strategy changes on purpose, so that its workers compute something else than one worker; parity checks the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Lossy:
    """A strategy's declaration of what it changes. Everything that it does not declare must be what one worker computes."""

    limit: float | None
    """Largest relative error by formula; None: none is known.

    Of gradients, and of parameters updated by them: relative to the mean of the norms of the gradients that are averaged, and
    not to the norm of their mean, which may be as small as one likes where they oppose one another. Of parameters: relative to
    the mean of the replicas' parameters after a step in which these are averaged; 0 is that mean up to rounding, None is
    checked to be the same on all replicas."""

    num_exact_steps: int = 0
    """Steps at the beginning in which nothing is changed (gradients)."""

    changes: Literal["gradients", "parameters"] = "gradients"
    """``gradients``: replicas pass on other gradients than they were given, and hold equal parameters. ``parameters``: each
    replica updates its parameters by its own gradients, so that they differ from replica to replica until they are averaged."""

    every: int = 1
    """Steps from one averaging to the next (parameters): after the k-th step, the 2k-th and so on."""

    @property
    def num_parity_steps(self) -> int:
        """Steps that the parity check must take to see what is declared, and one step that goes on from it."""
        return self.num_exact_steps + 1 if self.changes == "gradients" else self.every + 1

    def averages(self, step: int) -> bool:
        """Whether replicas average their parameters after this step, counted from 0."""
        return self.changes == "parameters" and (step + 1) % self.every == 0

    @property
    def sentence(self) -> str:
        """What it does, a clause that follows the split's name."""
        if self.changes == "gradients":
            return "changes gradients on purpose"
        steps = "step" if self.every == 1 else f"{self.every} steps"
        return f"trains replicas with parameters of their own and averages these every {steps}"
