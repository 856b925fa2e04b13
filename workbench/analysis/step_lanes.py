"""A trace step as the timeline shows it: its lanes, the ideal of its schedule, and the names of the workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from workbench.analysis import trace
from workbench.analysis.bubble import ideal_timeline
from workbench.analysis.ideal_step import ideal_sentences
from workbench.analysis.lanes import Lanes, blocks_of_stages, ideal_lanes, lane_names, measured_lanes, sentence, shares
from workbench.store.directory import StoredRun

MOST_EVENTS = 5_000_000
"""Largest number of events that are shown at once: 90 MB in a browser."""
MOST_REPLAYED = 20_000
"""Largest number of events of a step for which the ideal of the schedule is computed, which replays each of them."""


@dataclass(frozen=True)
class StepLanes:
    """Lanes of a trace step."""

    key: str
    """Identifies the content."""

    title: str
    measured: Lanes
    ideal: Lanes | None
    """Lanes of the ideal of the schedule; None without a pipeline, and for a long step."""

    names: Sequence[str]
    """Position of each rank in the mesh, such as ``data 0 · stage 1``."""

    why_not_ideal: Sequence[str] = ()
    """As of ``ideal_sentences``; empty where there is no ideal."""

    @property
    def sentence(self) -> str:
        """What the workers spend the step with, in words."""
        return sentence(shares(self.measured))

    def table(self) -> pd.DataFrame:
        """Returns a row per worker: ``worker``, ``position``, and the shares of ``lanes.shares``."""
        frame = shares(self.measured)
        frame.insert(1, "position", [self.names[worker] for worker in frame["worker"]])
        return frame


def step_lanes(run: StoredRun, step: int, timeline: pa.Table, communication: pa.Table, ranks: Sequence[int] = ()) -> StepLanes:
    """Returns the lanes of a trace step of a run.

    Args:
        run: the run.
        step: number of the step.
        timeline: as of ``trace.timeline_of``.
        communication: as of ``trace.communication_of``.
        ranks: the workers that are shown; all if empty.
    """
    record, blocks = run.directory.record(), blocks_of_stages(run)
    of_workers = trace.of_workers(timeline, ranks)
    measured = measured_lanes(of_workers, trace.of_workers(communication, ranks), trace.span_s(timeline)[0], blocks)
    ideal = ideal_timeline(run) if len(timeline) <= MOST_REPLAYED else pd.DataFrame({"worker": []})
    ideal = ideal[ideal["worker"].astype(int).isin(ranks)] if ranks else ideal
    last_stage = pc.max(timeline["stage"]).as_py()
    names = lane_names(record.mesh, last_stage is not None and last_stage < record.mesh.get("pipeline", 0))
    return StepLanes(
        f"{run.id} {step} {list(ranks)}",
        f"What does each worker of {record.split} do during step {step}?",
        measured,
        ideal_lanes(ideal, blocks) if len(ideal) else None,
        names,
        ideal_sentences(run) if len(ideal) else (),
    )
