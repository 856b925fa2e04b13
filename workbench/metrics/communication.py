"""What the formulas said a step moves, beside what it moved."""

from __future__ import annotations

from typing import Any

from workbench.metrics.summary import measured_transfers
from workbench.store.directory import RunDirectory


def transfers(run: RunDirectory) -> list[dict[str, Any]]:
    """A row for each operation, axis and phase of a step over the whole run: ``expected_bytes``, whether they are the most that
    can move (``is_bound``), ``measured_bytes`` and the ``count`` of operations, means over the trace steps and None without any;
    ``every``: the steps from one occurrence to the next. Of a run that has finished."""
    summary = run.summary() or {"workers": []}
    is_traced = all(worker.get("step_s", 0) is not None for worker in summary["workers"])
    nothing = 0 if is_traced else None  # not measured is not nothing moved
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}

    def row_of(t: dict[str, Any]) -> dict[str, Any]:
        key = t["operation"], t["axis"], t["phase"]
        named = dict(zip(("operation", "axis", "phase"), key, strict=True))
        return rows.setdefault(
            key, {**named, "expected_bytes": 0, "is_bound": False, "measured_bytes": nothing, "count": nothing, "every": 1}
        )

    for t in run.record()["expected"]["transfers"]:
        row = row_of(t)
        # Of what happens on each k-th step, the trace steps have more or fewer than the k-th part.
        num_bytes, share = t["count"] * t["payload_bytes"], t.get("trace_share", 1.0)
        row["expected_bytes"] += num_bytes if share == 1 else num_bytes * share
        row["every"] = max(row["every"], t.get("every", 1))
        row["is_bound"] |= bool(t.get("is_bound"))  # runs recorded before there were bounds do not say it
    for t in measured_transfers(summary["workers"]):
        row_of(t).update(measured_bytes=t["payload_bytes"], count=t["count"])
    return [rows[key] for key in sorted(rows)]
