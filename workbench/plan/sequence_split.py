"""Whether the sequence of a user's module can be split over workers, as a trial has found."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class AttentionCall:
    """A call of attention in a forward pass."""

    features: int
    """Of keys and values together, per position."""

    block: str
    """Name of the block in whose turn it is called; empty for one of the code between blocks, which every stage runs."""

    is_recomputed: bool
    """Whether it is inside the block, so that activation checkpointing repeats it."""

    group: tuple[str, ...] = ()
    """Paths of the modules of the tensor plan's group whose slices it computes with; empty if there is none."""


@dataclass(frozen=True)
class SequenceSplit:
    """How the sequence can be split: causal attention alone mixes positions."""

    refusal: str = ""
    """Why it cannot, a clause; empty if it can."""

    attention: tuple[AttentionCall, ...] = ()
    """In the order of the calls."""

    cuts: tuple[str, ...] = ()
    """Names of the blocks after which stages may end: all that crosses a cut there has the positions as dim 1."""

    not_sliced: str = ""
    """Why it is not split beside tensor slicing, a clause; empty if it is."""

    balances: dict[str, str] = field(default_factory=dict)
    """Value of ``split.context.balance`` → why the trial did not compute with it what the whole sequence does, a clause; empty if
    it did."""
