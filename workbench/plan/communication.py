"""Expected communication of one step, from the closed formulas of the strategies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction


@dataclass(frozen=True)
class ExpectedCommunication:
    """Communication operations of one kind and size that one worker takes part in during one step.

    Args:
        operation: ``all_reduce``, ``all_gather``, ``reduce_scatter``, ``all_to_all``, ``broadcast`` or ``send``. Receives have no
            entry, since the sender reports the bytes.
        axis: mesh axis of the operations.
        phase: ``forward``, ``backward`` or ``optimizer``.
        count: number of operations.
        payload_bytes: bytes of the full tensor of one operation.
    """

    operation: str
    axis: str
    phase: str
    count: int
    payload_bytes: int

    group_size: int = 1
    """Workers of the group of a collective, each of which reports it; 1 for a send, which only the sender reports."""

    is_bound: bool = False
    """Whether the payload is an upper bound, because the actual bytes depend on the data."""

    every: int = 1
    """Steps from one occurrence to the next: k for the k-th step of a run, the 2k-th and so on; 1 for every step."""

    @property
    def bytes_per_step(self) -> float:
        """Bytes of all operations, mean over the steps of a run."""
        return self.count * self.payload_bytes / self.every


def totals(expected: Iterable[ExpectedCommunication]) -> list[ExpectedCommunication]:
    """Returns the communication of one step over the whole run from that of every worker.

    A collective, which every member of its group reports, counts once per group. A send counts once, at its sender.
    """
    counts: dict[ExpectedCommunication, Fraction] = {}
    for t in expected:
        kind = replace(t, count=1)
        counts[kind] = counts.get(kind, Fraction(0)) + Fraction(t.count, t.group_size)
    assert all(count.denominator == 1 for count in counts.values()), "not every worker of a group reports its collective"
    return [replace(kind, count=int(count)) for kind, count in counts.items() if count]
