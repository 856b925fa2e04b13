"""Communication volume of one step: of a worker, over the whole run, and beside the closed formulas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

from workbench.store.directory import RunDirectory


def worker_communication(rows: Iterable[dict[str, Any]], num_trace_steps: int) -> list[dict[str, Any]]:
    """Returns the communication of one worker in one step, mean over the trace steps.

    Args:
        rows: the worker's rows of the table ``communication``, with ``group_size``.
        num_trace_steps: number of trace steps, including those without communication.

    Returns:
        One row per ``operation``, ``axis``, ``phase`` and ``group_size``, with ``count`` (operations) and ``payload_bytes``
        (bytes of all of them).
    """
    names = ("operation", "axis", "phase", "group_size")
    counts: Counter[tuple[Any, ...]] = Counter()
    sums: Counter[tuple[Any, ...]] = Counter()
    for row in rows:
        key = tuple(row[name] for name in names)
        counts[key] += 1
        sums[key] += row["payload_bytes"]
    return [
        {**dict(zip(names, key, strict=True)), "count": counts[key] / num_trace_steps, "payload_bytes": total / num_trace_steps}
        for key, total in sums.items()
    ]


def measured_communication(workers: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the measured communication of one step over the whole run, one row per operation, axis and phase.

    Each worker reports the operations that it takes part in. A collective counts once per group, although each member reports it,
    and a send once, at its sender.

    Args:
        workers: figures of each worker of the run; ``communication`` has the rows of ``worker_communication``.

    Returns:
        Rows with ``operation``, ``axis``, ``phase``, ``count`` (operations) and ``payload_bytes`` (bytes of all of them).
    """
    workers = list(workers)
    counts: dict[tuple[str, str, str], Fraction] = {}
    sums: dict[tuple[str, str, str], Fraction] = {}
    for worker in workers:
        for reported in worker["communication"]:
            if reported["operation"] == "recv":
                continue
            key = reported["operation"], reported["axis"], reported["phase"]
            # Runs recorded before strategies could be combined have no group size: a collective was then of all workers.
            size = reported.get("group_size", 1 if reported["operation"] == "send" else len(workers))
            counts[key] = counts.get(key, Fraction(0)) + Fraction(reported["count"]) / size
            sums[key] = sums.get(key, Fraction(0)) + Fraction(reported["payload_bytes"]) / size
    names = ("operation", "axis", "phase")
    return [
        {**dict(zip(names, key, strict=True)), "count": float(counts[key]), "payload_bytes": float(total)}
        for key, total in sums.items()
    ]


def communication_bytes_per_step(expected: Iterable[dict[str, Any]], workers: Iterable[dict[str, Any]]) -> int | None:
    """Returns the measured communication volume of a step in bytes, mean over the steps of the run.

    An operation that only every k-th step performs is weighted by its frequency in the run, not in the trace steps. The result is
    None if no trace step performed it.

    Args:
        expected: expected communication of the run's record.
        workers: figures of each worker of the run, as of ``measured_communication``.
    """
    periodic = {(e["operation"], e["axis"], e["phase"]): e for e in expected if e.get("every", 1) > 1}
    if any(e["trace_share"] == 0 for e in periodic.values()):
        return None
    total = 0.0
    for row in measured_communication(workers):
        e = periodic.get((row["operation"], row["axis"], row["phase"]))
        total += row["payload_bytes"] / (e["every"] * e["trace_share"] if e else 1)
    return round(total)


def communication_volume(run: RunDirectory) -> list[dict[str, Any]]:
    """Returns the expected and the measured communication volume of a step of a finished run.

    Returns:
        One row per ``operation``, ``axis`` and ``phase``, over the whole run: ``expected_bytes``, ``is_bound`` (whether these are
        an upper bound), ``measured_bytes`` and ``count`` (operations), both means over the trace steps and None without any,
        and ``every`` (steps from one occurrence to the next).
    """
    summary = run.summary()
    workers = summary.workers if summary else ()
    is_traced = all(worker.step_s is not None for worker in workers)
    unmeasured = 0 if is_traced else None  # without trace steps nothing was measured, which is not the same as no bytes
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}

    def row_of(e: dict[str, Any]) -> dict[str, Any]:
        key = e["operation"], e["axis"], e["phase"]
        named = dict(zip(("operation", "axis", "phase"), key, strict=True))
        empty = {"expected_bytes": 0, "is_bound": False, "measured_bytes": unmeasured, "count": unmeasured, "every": 1}
        return rows.setdefault(key, {**named, **empty})

    for e in run.record().expected.communication:
        row = row_of(e)
        # Of an operation of every k-th step, the trace steps have more or fewer than the k-th part.
        num_bytes, share = e["count"] * e["payload_bytes"], e.get("trace_share", 1.0)
        row["expected_bytes"] += num_bytes if share == 1 else num_bytes * share
        row["every"] = max(row["every"], e.get("every", 1))
        row["is_bound"] |= bool(e.get("is_bound"))  # runs recorded before there were bounds lack it
    for measured in measured_communication([{"communication": worker.communication} for worker in workers]):
        row_of(measured).update(measured_bytes=measured["payload_bytes"], count=measured["count"])
    return [rows[key] for key in sorted(rows)]
