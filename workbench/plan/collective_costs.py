"""Costs of communication operations by formula: messages, passes of the payload over a link, bytes that a rank sends.

n workers, payload S (the full tensor's bytes; of an all-to-all one rank's input). All-reduce on a ring: 2(n−1) messages of S/n
(Patarasuk and Yuan 2009). All-gather and reduce-scatter on a ring, all-to-all by pairwise exchange: n−1 messages of S/n;
broadcast on a binomial tree: ⌈log₂ n⌉ messages of S (Thakur, Rabenseifner and Gropp 2005, sections 3 and 4). Barrier by
dissemination: ⌈log₂ n⌉ empty messages (Hensgen, Finkel and Manber 1988). Send: one message of S (Hockney 1994).
"""

from __future__ import annotations

OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "barrier", "send", "recv")
"""Operations with a formula; others are not emulated."""

_ROUNDS = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1, "all_to_all": 1}
"""Operation → how often each rank sends n−1 of the n parts of the payload."""


def num_messages(operation: str, n: int) -> int:
    """Returns the number of messages in a row of an operation of ``n`` workers, each with the latency of the link."""
    if operation in _ROUNDS:
        return _ROUNDS[operation] * (n - 1)
    tree = (n - 1).bit_length()
    return {"broadcast": tree, "barrier": tree, "send": 1, "recv": 1}[operation]


def num_link_passes(operation: str, n: int) -> float:
    """Returns how often the payload of an operation passes the link of one worker in one direction."""
    if operation in _ROUNDS:
        return _ROUNDS[operation] * (n - 1) / n
    return {"broadcast": (n - 1).bit_length(), "barrier": 0, "send": 1, "recv": 1}[operation]


def ring_bytes(operation: str, n: int, payload_bytes: int) -> int:
    """Returns the bytes that each rank sends under the ring algorithm, on average over the ranks, rounded down: the volume behind
    the bus bandwidth of nccl-tests.

    A broadcast sends the payload n−1 times, on a ring as on a tree. 0 for a recv, a barrier and what has no formula.
    """
    if operation == "send":
        return payload_bytes
    rounds = 1 if operation == "broadcast" else _ROUNDS.get(operation, 0)
    return rounds * (n - 1) * payload_bytes // n
