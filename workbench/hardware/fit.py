"""Fits latency and bandwidth to the measured times of a calibration, and compares emulated links with those of this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from math import inf, sqrt
from typing import TYPE_CHECKING, Any

from workbench.plan.collective_costs import num_link_passes, num_messages

if TYPE_CHECKING:
    from workbench.plan.plan import Plan
    from workbench.spec.link import LinkSpeed


def fit(operation: str, n: int, points: Sequence[tuple[int, float]]) -> dict[str, Any]:
    """Fits latency α and bandwidth B of a link, over which an operation of ``n`` workers would take the measured times.

    The formulas of ``plan/collective_costs.py`` are linear in α and 1/B. The fit minimizes the squares of the relative errors,
    so that small messages weigh as much as large ones, with neither coefficient below 0.

    Args:
        points: Payload in bytes and time in seconds of each measurement.

    Returns:
        ``latency_s``, ``bandwidth_bytes_per_s`` (None for infinite) and ``residual``, the root mean square of the relative
            errors.
    """
    # predicted / measured time = α·x + y/B, which should be 1
    pairs = [(num_messages(operation, n) / t, num_link_passes(operation, n) * size / t) for size, t in points]
    xx, xy, yy = sum(x * x for x, _ in pairs), sum(x * y for x, y in pairs), sum(y * y for _, y in pairs)
    sx, sy = sum(x for x, _ in pairs), sum(y for _, y in pairs)
    determinant = xx * yy - xy * xy
    latency_s, inverse = (sx * yy - sy * xy) / determinant, (sy * xx - sx * xy) / determinant
    if latency_s < 0:
        latency_s, inverse = 0.0, sy / yy
    elif inverse < 0:
        latency_s, inverse = sx / xx, 0.0
    return {
        "operation": operation,
        "group_size": n,
        "latency_s": latency_s,
        "bandwidth_bytes_per_s": 1 / inverse if inverse else None,
        "residual": sqrt(sum((latency_s * x + inverse * y - 1) ** 2 for x, y in pairs) / len(pairs)),
    }


def machine_link(calibration: dict[str, Any], operation: str, n: int) -> dict[str, Any] | None:
    """Returns the fit of an operation for the group size nearest to ``n``; None if it was not measured."""
    fits = [fit for fit in calibration["links"] if fit["operation"] == operation]
    return min(fits, key=lambda fit: abs(fit["group_size"] - n), default=None)


def link_notes(plan: Plan, calibration: dict[str, Any] | None) -> list[str]:
    """Returns notes on the emulated links of a run: a link cannot be emulated faster than that of this machine."""
    parts = plan.spec.link.parts
    if not parts or plan.num_workers == 1:
        return []
    if calibration is None:
        return ["not compared with the machine's own link: run `workbench calibrate` first"]
    notes = []
    for path, speed in parts.items():
        shortfalls: dict[str, None] = {}
        for t in plan.expected_communication:
            uses_link = t.axis == path.removeprefix("axes.") if path.startswith("axes.") else t.axis not in plan.spec.link.axes
            fit = machine_link(calibration, t.operation, max(t.group_size, 2)) if uses_link else None
            shortfalls |= dict.fromkeys(_shortfalls(fit, speed)) if fit else {}
        if shortfalls:
            where = f"link.{path}" if path else "link"
            notes.append(
                f"{where}: the machine's own link is slower ({'; '.join(shortfalls)}); operations take the longer of the two"
                " times"
            )
    day = time.strftime("%Y-%m-%d", time.localtime(calibration["created_at"]))
    return notes or [f"slower than the machine's own link, calibrated on {day}"]


def _shortfalls(fit: dict[str, Any], requested: LinkSpeed) -> Iterator[str]:
    """Yields the properties in which the link of the machine is worse than the requested one."""
    (latency_s, bandwidth), own_bandwidth = requested.numbers, fit["bandwidth_bytes_per_s"] or inf
    if latency_s is not None and latency_s < fit["latency_s"]:
        yield f"{fit['operation']} has a latency of {fit['latency_s'] * 1e6:.3g} µs, requested {latency_s * 1e6:.3g} µs"
    if bandwidth is not None and bandwidth > own_bandwidth:
        yield f"{fit['operation']} has a bandwidth of {own_bandwidth / 1e9:.3g} GB/s, requested {bandwidth / 1e9:.3g} GB/s"
