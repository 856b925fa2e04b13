"""Computing something else than one worker on purpose: what that does to the parity check."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Lossy:
    """A strategy passes on gradients that are not quite those it was given."""

    limit: float | None
    """Largest relative error of the gradients and updated parameters of a step, by formula; None: none is known."""

    num_exact_steps: int = 0
    """Steps at the beginning that are exact."""
