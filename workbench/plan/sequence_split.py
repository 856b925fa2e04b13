"""Whether the sequence of a user's module can be split over workers, as a trial has found."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class SequenceSplit:
    """How the sequence can be split: causal attention alone mixes positions."""

    refusal: str = ""
    """Why it cannot, a clause; empty if it can."""

    attention: tuple[int, ...] = ()
    """Features of keys and values together, per position, of each call of attention."""

    balances: dict[str, str] = field(default_factory=dict)
    """Value of ``split.context.balance`` → why the trial did not compute with it what the whole sequence does, a clause; empty if
    it did."""
