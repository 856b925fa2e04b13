"""Partitions consecutive blocks into stages."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import accumulate, pairwise


def balanced(weights: Sequence[float], num_stages: int, can_end: Sequence[bool] = ()) -> list[int]:
    """Returns the sizes of ``num_stages`` consecutive non-empty groups with the smallest possible maximum sum of weights.

    The linear partition problem (Skiena, The Algorithm Design Manual, section 10.7); weights in any unit.

    Args:
        can_end: whether a group can end after each weight; by default all can.
    """
    ends = [i + 1 for i in range(len(weights)) if i + 1 == len(weights) or not can_end or can_end[i]]
    assert 0 < num_stages <= len(ends)
    runs = [sum(weights[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
    bounds = [0, *(ends[count - 1] for count in accumulate(_balanced(tuple(runs), num_stages)))]
    return [end - start for start, end in pairwise(bounds)]


@lru_cache(maxsize=256)
def _balanced(weights: tuple[float, ...], num_stages: int) -> tuple[int, ...]:
    prefix = [0.0]
    for weight in weights:
        prefix.append(prefix[-1] + weight)

    @cache
    def best(end: int, stages: int) -> tuple[float, int]:
        """Returns the smallest maximum sum for the first ``end`` weights, and where its last group starts."""
        if stages == 1:
            return prefix[end], 0
        return min((max(best(cut, stages - 1)[0], prefix[end] - prefix[cut]), cut) for cut in range(stages - 1, end))

    sizes, end = [], len(weights)
    for stages in range(num_stages, 0, -1):
        cut = best(end, stages)[1]
        sizes.append(end - cut)
        end = cut
    return tuple(sizes[::-1])
