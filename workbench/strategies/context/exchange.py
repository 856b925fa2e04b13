"""Contract of the exchange of keys and values between workers, and the causal mask between their positions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple, Protocol

from torch import Tensor

PositionRanges = Sequence[tuple[range, ...]]
"""For each worker the ranges of positions that it holds, in ascending order and of equal length."""


class Pair(NamedTuple):
    """A rectangle of the attention matrix that a worker computes; causal if queries and keys are at the same positions."""

    queries: slice
    """Slice of the local queries."""

    keys: slice
    """Slice of the keys of the visited part."""

    is_causal: bool


class KeyValueExchange(Protocol):
    """Brings the keys and values of all workers to each worker, as tensors (2, batch, heads, positions, head_dim)."""

    def visit(self, local: Tensor) -> Iterator[tuple[Tensor, list[Pair]]]:
        """Yields the keys and values of all workers, part by part, each with the pairs that the local queries attend to."""

    def reduce_gradients(self, local: Tensor, compute_gradient: Callable[[Tensor, list[Pair]], Tensor]) -> Tensor:
        """Calls ``compute_gradient`` on every part. Returns the gradient of ``local``, summed over all workers."""


def local_slices(ranges: tuple[range, ...]) -> list[slice]:
    """Returns the slice of each range in the tensor of all positions of a worker."""
    return [slice(end - len(positions), end) for positions, end in zip(ranges, accumulate(map(len, ranges)), strict=True)]


def visible_pairs(ranges: PositionRanges, query_rank: int, key_rank: int) -> list[Pair]:
    """Returns the pairs between the queries of one worker and the keys of another: causal attention within a worker, else one
    rectangle, or nothing if all keys come after all queries."""
    if query_rank == key_rank:
        return [Pair(slice(None), slice(None), True)]
    query_ranges, key_ranges = ranges[query_rank], ranges[key_rank]
    queries = [s for s, r in zip(local_slices(query_ranges), query_ranges, strict=True) if key_ranges[0].start < r.start]
    keys = [s for s, r in zip(local_slices(key_ranges), key_ranges, strict=True) if r.start < query_ranges[-1].start]
    if not queries or not keys:
        return []
    return [Pair(slice(queries[0].start, queries[-1].stop), slice(keys[0].start, keys[-1].stop), False)]
