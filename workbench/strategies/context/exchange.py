"""How keys and values of other workers reach the queries of this one, and which of them a query sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple, Protocol

from torch import Tensor

Runs = Sequence[tuple[range, ...]]
"""For each worker in order the runs of positions that it holds, ascending and all equally long."""


class Pair(NamedTuple):
    """Queries that meet keys: all of each other, or causally, when both are the same positions."""

    queries: slice
    """Of those that this worker holds."""

    keys: slice
    """Of those at hand."""

    is_causal: bool


class Exchange(Protocol):
    """How a worker comes by the keys and values of the others. A tensor of them is (2, batch, heads, positions, head_dim)."""

    def visit(self, own: Tensor) -> Iterator[tuple[Tensor, list[Pair]]]:
        """Keys and values of all workers, one part after the other, and which of them this worker's queries see."""

    def sum_of(self, own: Tensor, gradient_of: Callable[[Tensor, list[Pair]], Tensor]) -> Tensor:
        """Calls ``gradient_of`` with every part; of the results, the sum over all workers of what belongs to ``own``."""


def slices_of(runs: tuple[range, ...]) -> list[slice]:
    """Where each run lies in the tensor that holds them all."""
    return [slice(end - len(run), end) for run, end in zip(runs, accumulate(map(len, runs)), strict=True)]


def visible_pairs(runs: Runs, here: int, there: int) -> list[Pair]:
    """What the queries of worker ``here`` see of the keys of worker ``there``: their own causally, of another's a
    rectangle or, when all of them come later, nothing."""
    if here == there:
        return [Pair(slice(None), slice(None), True)]
    mine, theirs = runs[here], runs[there]
    seeing = [place for place, run in zip(slices_of(mine), mine, strict=True) if theirs[0].start < run.start]
    seen = [place for place, run in zip(slices_of(theirs), theirs, strict=True) if run.start < mine[-1].start]
    if not seeing or not seen:
        return []
    return [Pair(slice(seeing[0].start, seeing[-1].stop), slice(seen[0].start, seen[-1].stop), False)]
