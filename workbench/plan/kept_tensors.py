"""What a forward pass keeps for backward, of a model without formulas."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class KeptTensors:
    """Tensors of one sample that the same blocks save and that cross the same cuts."""

    savers: tuple[int, ...]
    """Indices of the blocks that save them, the loss as the last."""

    cuts: tuple[int, ...]
    """Indices of the blocks after which a cut lets them cross."""

    num_elements: int
    """Number of elements of floating point."""

    other_bytes: int
    """Bytes of integers and masks."""


def kept_bytes(tensors: Iterable[KeptTensors], blocks: range, element_bytes: int) -> int:
    """Returns the bytes that a stage keeps of one sample: what its blocks save, also of what an earlier stage computed, and what
    crosses the cut after it.

    Args:
        blocks: Indices of the blocks of the stage.
    """
    held = [kept for kept in tensors if blocks[-1] in kept.cuts or any(saver in blocks for saver in kept.savers)]
    return sum(kept.num_elements * element_bytes + kept.other_bytes for kept in held)
