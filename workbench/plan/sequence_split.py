"""Whether the sequence of a user's module can be split over workers, as a trial has found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SequenceSplit:
    """How the sequence can be split: causal attention alone mixes positions."""

    refusal: str = ""
    """Why it cannot, a clause; empty if it can."""

    attention: tuple[int, ...] = ()
    """Features of keys and values together, per position, of each call of attention."""

    balances: tuple[str, ...] = ()
    """Values of ``split.context.balance`` with which the trial computed what the whole sequence does."""
