"""Expected communication: what a strategy's closed formula says moves in one step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Transfer:
    """Equal communication operations that one worker takes part in during one step."""

    operation: str
    axis: str
    phase: str
    count: int
    payload_bytes: int
    """Bytes of one of them: the full tensor's."""

    group_size: int = 1
    """Workers that share a collective, each of whom reports it; 1 for a send, which only the sender reports."""

    is_bound: bool = False
    """Whether the payload is the most that can move, where what does move depends on the data."""


def totals(transfers: Iterable[Transfer]) -> list[Transfer]:
    """What moves over the whole run from what each worker reports: each collective once per group, each send once.

    One transfer per operation, axis and phase, of count 1 and all the bytes; a sum with a bound in it is a bound.
    """
    bounds = set()
    sums: dict[tuple[str, str, str], Fraction] = {}
    for t in transfers:
        key = t.operation, t.axis, t.phase
        bounds |= {key} if t.is_bound else set()
        sums[key] = sums.get(key, Fraction(0)) + Fraction(t.count * t.payload_bytes, t.group_size)
    return [Transfer(*key, 1, round(total), is_bound=key in bounds) for key, total in sums.items() if total]
