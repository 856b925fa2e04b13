"""The timeline of a pipeline schedule before it runs: every stage takes the same time, and communication none."""

from __future__ import annotations

from typing import Any

import pandas as pd

from workbench.analysis.bubble import Worker, replay
from workbench.analysis.step_walkthrough import KINDS
from workbench.strategies.pipeline.schedules.action_order import Order

DURATIONS = {"F": 1.0, "B": 2.0, "I": 1.0, "W": 1.0}
"""Time of an action in forward passes of a stage: a backward pass has twice the operations (Kaplan et al. 2020, section 2.1)."""


def schedule_timeline(order: Order, trains: bool = True) -> pd.DataFrame:
    """Returns the timeline of a step of a schedule.

    Args:
        order: Actions of each worker.
        trains: Whether the backward passes are run.

    Returns:
        One row per action: ``worker``, ``kind``, ``stage``, ``microbatch``, and ``begin_ms`` and ``end_ms`` in units of the
        forward pass of a stage.
    """
    actions = [tuple(a for a in of_worker if trains or a.kind == "F") for of_worker in order]
    workers = [Worker(of, {(a.stage, a.kind): DURATIONS[a.kind] for a in of}, {}, {}, 0.0, 0.0, 0.0, 0.0) for of in actions]
    rows: list[dict[str, Any]] = [
        {
            "worker": str(played.worker),
            "kind": KINDS[played.action.kind],
            "stage": played.action.stage,
            "microbatch": played.action.microbatch,
            "begin_ms": played.start,
            "end_ms": played.end,
        }
        for played in replay(workers, 1)
    ]
    return pd.DataFrame(rows)


def bubble_fraction(frame: pd.DataFrame) -> float:
    """Returns the share of the workers' time in which they wait, of the timeline of a schedule."""
    busy = (frame["end_ms"] - frame["begin_ms"]).sum()
    return float(1 - busy / (frame["worker"].nunique() * frame["end_ms"].max()))
