"""Expected communication: what a strategy's closed formula says moves in one step."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Transfer:
    """Equal communication operations of one step, over the whole run: each collective counted once per group, each
    send once."""

    operation: str
    axis: str
    phase: str
    count: int
    payload_bytes: int
    """Bytes of one of them: the full tensor's."""

    count_is_exact: bool = True
    """False where torch decides into how many operations the bytes are divided (DDP's buckets); then ``count`` is 1."""


def total_bytes(transfers: list[Transfer]) -> int:
    """Payload of a step."""
    return sum(t.count * t.payload_bytes for t in transfers)
