"""Who sends how much to whom in a step, and how fast it travels; of a run's ``communication``."""

from __future__ import annotations

import numpy as np
import pandas as pd

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
"""Operation → how its bytes are laid on pairs of workers. What a backend does inside a collective is not seen."""


def traffic_of(run: StoredRun) -> pd.DataFrame:
    """``traffic`` of a run, mean over all of its trace steps."""
    run = run.directory
    return traffic(run.table("communication").to_pandas(), num_trace_steps(run))


def num_trace_steps(run: StoredRun) -> int:
    """Trace steps of a run, those in which nothing moved among them."""
    run = run.directory
    steps = run.table("steps", ("step", "kind")).to_pandas()
    return int(steps.loc[steps["kind"] == "trace", "step"].nunique())


def traffic(communication: pd.DataFrame, num_steps: int | None = None) -> pd.DataFrame:
    """Bytes that each worker sends to each other in a step, mean over trace steps: ``axis``, ``from``, ``to``, ``attribution``,
    ``bytes``. ``num_steps``: how many these are; None: those in which something moved.

    Sends are as they are. A collective's are attributed to neighbours in the ring of the group's ranks in order, by the
    formula of ``ring_bytes``; an all-to-all's evenly to all others. How each row came about stands in ``attribution``.
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
    ends = is_chain & (collectives["to"] == collectives["peer"])  # the last of a chain passes nothing on
    collectives = collectives[(is_next | is_evenly) & ~ends]
    both = pd.concat([sends, collectives])[["axis", "rank", "to", "attribution", "bytes"]].rename(columns={"rank": "from"})
    both["bytes"] /= max(num_steps or communication["step"].nunique(), 1)
    return (
        both.astype({"to": "int64"})
        .groupby(["axis", "from", "to", "attribution"], dropna=False, as_index=False)
        .agg({"bytes": "sum"})
    )


def _pairs(rows: pd.DataFrame) -> pd.DataFrame:
    """Every ordered pair of two ranks of a group: ``group``, ``rank``, ``to``, ``is_next`` in its ring, ``num_others``."""
    pairs = []
    for group, of_group in rows[rows["attribution"] != SENT].groupby("group")["rank"]:
        ranks = sorted(of_group.unique())
        for i, rank in enumerate(ranks):
            following = ranks[(i + 1) % len(ranks)]
            pairs += [(group, rank, to, to == following, len(ranks) - 1) for to in ranks if to != rank]
    return pd.DataFrame(pairs, columns=["group", "rank", "to", "is_next", "num_others"])


def matrix(frame: pd.DataFrame, num_workers: int) -> pd.DataFrame:
    """Bytes a step from each worker (index) to each (columns), all axes together; ``frame`` as of ``traffic``."""
    total = frame.pivot_table(index="from", columns="to", values="bytes", aggfunc="sum", fill_value=0.0)
    return total.reindex(index=range(num_workers), columns=range(num_workers), fill_value=0.0)


def achieved_bandwidth(communication: pd.DataFrame) -> pd.DataFrame:
    """How fast operations were, a row per ``operation``, ``axis``, ``group_size`` and class of size (``size_from_bytes``:
    payloads of at least this power of two and less than its double): ``num_operations`` measured, ``payload_bytes`` of one
    (mean), ``seconds`` and ``ring_bytes_per_s`` (medians).

    An operation takes from the last participant's issuing it, so that no waiting for a late worker counts, to the last one's true
    completion; what backend threads make it queue counts. Its speed is ``ring_bytes`` of a rank over that. Operations whose
    completion one participant did not see are left out: of sends those that the receiver did not stand waiting for.
    """
    moving = communication[communication["payload_bytes"] > 0]
    is_send, is_recv = moving["operation"] == "send", moving["operation"] == "recv"
    rows = moving.assign(
        operation=moving["operation"].where(~is_recv, "send"),
        sender=np.select([is_send, is_recv], [moving["rank"], moving["peer"]], -1),
        receiver=np.select([is_send, is_recv], [moving["peer"], moving["rank"]], -1),
        completed_s=moving["completed_s"].where(~is_send, -np.inf),  # the receiver's counts
        is_seen=moving["completed_s"].notna() | is_send,
    )
    of_one = rows.groupby(["step", "operation", "axis", "group", "sender", "receiver", "sequence"], as_index=False).agg(
        issued_s=("start_s", "max"),
        completed_s=("completed_s", "max"),
        payload_bytes=("payload_bytes", "max"),
        ring_bytes=("ring_bytes", "max"),
        group_size=("rank", "size"),
        is_seen=("is_seen", "all"),
    )
    of_one = of_one[of_one["is_seen"] & (of_one["group_size"] > 1)]
    of_one["seconds"] = of_one["completed_s"] - of_one["issued_s"]
    of_one["ring_bytes_per_s"] = of_one["ring_bytes"] / of_one["seconds"]
    of_one["size_from_bytes"] = 2 ** np.floor(np.log2(of_one["payload_bytes"])).astype("int64")
    return of_one.groupby(["operation", "axis", "group_size", "size_from_bytes"], as_index=False).agg(
        num_operations=("seconds", "size"),
        payload_bytes=("payload_bytes", "mean"),
        seconds=("seconds", "median"),
        ring_bytes_per_s=("ring_bytes_per_s", "median"),
    )
