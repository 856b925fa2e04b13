"""Expected communication: what a strategy's closed formula says moves in one step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
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

    every: int = 1
    """Steps from one occurrence to the next: on the k-th step of a run, the 2k-th and so on; 1: on each."""

    @property
    def bytes_per_step(self) -> float:
        """Bytes of all of them, averaged over steps."""
        return self.count * self.payload_bytes / self.every


def totals(transfers: Iterable[Transfer]) -> list[Transfer]:
    """What moves over the whole run from what each worker reports: each collective once per group, each send once."""
    counts: dict[Transfer, Fraction] = {}
    for t in transfers:
        kind = replace(t, count=1)
        counts[kind] = counts.get(kind, Fraction(0)) + Fraction(t.count, t.group_size)
    assert all(count.denominator == 1 for count in counts.values()), "not every worker of a group reports its collective"
    return [replace(kind, count=int(count)) for kind, count in counts.items() if count]
