"""The traffic matrix: bytes that each worker sends to each other worker in a step."""

from __future__ import annotations

import pandas as pd

from workbench.analysis.communication import num_trace_steps
from workbench.store.directory import StoredRun

SENT = "measured"
RING = "ring formula: to the next rank of the group"
CHAIN = "ring formula: from the root along the group"
EVENLY = "evenly to all other ranks of the group"
ATTRIBUTION = {
    "send": SENT,
    "all_reduce": RING,
    "all_gather": RING,
    "reduce_scatter": RING,
    "broadcast": CHAIN,
    "all_to_all": EVENLY,
}
"""Operation → how its bytes are attributed to pairs of workers. What a backend does inside a collective is not observed."""


def traffic_matrix_of(run: StoredRun) -> pd.DataFrame:
    """Returns ``traffic_matrix`` of a run, mean over all its trace steps."""
    return traffic_matrix(run.directory.table("communication").to_pandas(), num_trace_steps(run))


def traffic_matrix(communication: pd.DataFrame, num_steps: int | None = None) -> pd.DataFrame:
    """Returns the bytes that each worker sends to each other worker in a step, mean over the trace steps.

    Sends are measured. The bytes of a collective are attributed to neighbours in the ring of the ranks of its group, in order, by
    the formula of ``ring_bytes`` (Patarasuk and Yuan 2009); those of a broadcast to a chain from its root, those of an all-to-all
    evenly to all other ranks.

    Args:
        communication: rows of the table ``communication``.
        num_steps: number of trace steps; None for those with communication.

    Returns:
        One row per ``axis``, ``from``, ``to`` and ``attribution``, with ``bytes``. ``square`` makes a matrix of it.
    """
    keys = ["axis", "group", "rank", "operation", "peer"]
    rows = communication.groupby(keys, dropna=False, as_index=False)[["payload_bytes", "ring_bytes"]].sum()
    rows = rows.assign(attribution=rows["operation"].map(ATTRIBUTION)).dropna(subset=["attribution"])
    sends = rows[rows["attribution"] == SENT].assign(to=lambda r: r["peer"], bytes=lambda r: r["payload_bytes"])
    collectives = rows[rows["attribution"] != SENT].merge(_pairs(rows), on=["group", "rank"])
    is_next, is_chain = collectives["is_next"], collectives["attribution"] == CHAIN
    is_evenly = collectives["attribution"] == EVENLY
    collectives["bytes"] = collectives["ring_bytes"].where(~is_evenly, collectives["ring_bytes"] / collectives["num_others"])
    collectives["bytes"] = collectives["bytes"].where(~is_chain, collectives["payload_bytes"])
    ends = is_chain & (collectives["to"] == collectives["peer"])  # the last rank of a chain does not send
    collectives = collectives[(is_next | is_evenly) & ~ends]
    both = pd.concat([sends, collectives])[["axis", "rank", "to", "attribution", "bytes"]].rename(columns={"rank": "from"})
    both["bytes"] /= max(num_steps or communication["step"].nunique(), 1)
    return (
        both.astype({"to": "int64"})
        .groupby(["axis", "from", "to", "attribution"], dropna=False, as_index=False)
        .agg({"bytes": "sum"})
    )


def _pairs(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns every ordered pair of ranks of a group: ``group``, ``rank``, ``to``, ``is_next`` in its ring, ``num_others``."""
    pairs = []
    for group, of_group in rows[rows["attribution"] != SENT].groupby("group")["rank"]:
        ranks = sorted(of_group.unique())
        for i, rank in enumerate(ranks):
            following = ranks[(i + 1) % len(ranks)]
            pairs += [(group, rank, to, to == following, len(ranks) - 1) for to in ranks if to != rank]
    return pd.DataFrame(pairs, columns=["group", "rank", "to", "is_next", "num_others"])


def square(frame: pd.DataFrame, num_workers: int) -> pd.DataFrame:
    """Returns a traffic matrix with a row per sender and a column per receiver, in bytes per step, summed over axes.

    Args:
        frame: as of ``traffic_matrix``.
        num_workers: number of workers of the run.
    """
    total = frame.pivot_table(index="from", columns="to", values="bytes", aggfunc="sum", fill_value=0.0)
    return total.reindex(index=range(num_workers), columns=range(num_workers), fill_value=0.0)
