"""What each worker does at each moment of a trace step: one lane per worker, of pieces that do not overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from workbench.errors import WorkbenchError
from workbench.plan.mesh import Mesh
from workbench.plan.resolve import plan
from workbench.store.directory import StoredRun

WAITS = ("communication", "idle")
"""Kinds that lie inside other events, the innermost last."""
_EVERY = 2
"""Largest number of workers of which ``sentence`` describes each."""


@dataclass(frozen=True)
class Activity:
    """What a worker does during an event."""

    kind: str
    """As in the table ``timeline``."""

    operation: str = ""
    """Operation that is issued or waited for, or what the event does, such as ``zero_grad``."""

    stage: int | None = None
    microbatch: int | None = None
    blocks: str = ""
    """First and last block of the stage."""

    axis: str = ""
    """Mesh axis of a communication operation."""

    phase: str = ""
    peer: int | None = None
    payload_bytes: int | None = None


@dataclass(frozen=True)
class Lane:
    """The pieces of one worker in order of time; an event with a wait inside it has a piece on each side of the wait."""

    worker: int
    begin_ms: np.ndarray
    """Begin of each piece, in milliseconds since the step began."""

    end_ms: np.ndarray
    event_begin_ms: np.ndarray
    """Begin of the event that each piece is a part of."""

    event_end_ms: np.ndarray
    activity: np.ndarray
    """Index of each piece in ``Lanes.activities``."""


@dataclass(frozen=True)
class Lanes:
    """The lanes of a step, and the activities that occur in them."""

    lanes: tuple[Lane, ...]
    activities: tuple[Activity, ...]

    @property
    def end_ms(self) -> float:
        """End of the last piece."""
        return max((float(lane.end_ms[-1]) for lane in self.lanes if len(lane.end_ms)), default=0.0)

    def frame(self) -> pd.DataFrame:
        """Returns a row per piece: ``worker``, the fields of ``Activity``, and ``begin_ms`` and ``end_ms``."""
        activities = pd.DataFrame(list(self.activities), columns=list(Activity.__dataclass_fields__))
        parts = [
            activities.take(lane.activity).assign(worker=lane.worker, begin_ms=lane.begin_ms, end_ms=lane.end_ms)
            for lane in self.lanes
        ]
        columns = ["worker", *activities.columns, "begin_ms", "end_ms"]
        return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def measured_lanes(timeline: pa.Table, communication: pa.Table, start_s: float, blocks: Mapping[int, str] | None = None) -> Lanes:
    """Returns the lanes of a trace step.

    Args:
        timeline: as of ``trace.timeline_of``.
        communication: as of ``trace.communication_of``; says how many bytes each operation communicates, and along which axis.
        start_s: start of the step, as of ``trace.span_s``.
        blocks: as of ``blocks_of_stages``.
    """
    operations = communication.select(["rank", "start_s", "end_s", "axis", "phase", "peer", "payload_bytes"]).to_pandas()
    operations_of = dict(list(operations.groupby("rank", sort=True)))
    events = timeline.to_pandas()
    parts = []
    for worker, of_worker in events.groupby("rank", sort=True):
        frame = of_worker.sort_values("start_s", kind="stable", ignore_index=True)
        found = _operation_of(frame, operations_of.get(worker, operations[:0]))
        frame = pd.concat([frame[["kind", "name", "stage", "microbatch", "start_s", "end_s"]], found], axis=1)
        parts.append((int(str(worker)), frame))
    return _lanes(parts, start_s, 1e3, blocks or {})


def ideal_lanes(frame: pd.DataFrame, blocks: Mapping[int, str] | None = None) -> Lanes:
    """Returns the lanes of an ideal step, as of ``bubble.ideal_timeline``."""
    empty: dict[str, Any] = {"name": "", "axis": "", "phase": "", "peer": np.nan, "payload_bytes": np.nan}
    events = frame.rename(columns={"begin_ms": "start_s", "end_ms": "end_s"}).assign(**empty)
    parts = [
        (int(worker), part.sort_values("start_s", ignore_index=True))
        for worker, part in events.groupby(events["worker"].astype(int))
    ]
    return _lanes(parts, 0.0, 1.0, blocks or {})


def blocks_of_stages(run: StoredRun) -> dict[int, str]:
    """Returns stage → its first and last block, such as ``layer2 – layer3``; empty for a run without stages or of a model that
    is not installed, and without stages whose blocks border on another stage of the same worker."""
    try:
        planned = plan(run.directory.spec())
    except WorkbenchError:
        return {}
    if "pipeline" not in planned.mesh.axes:
        return {}
    number = {block.name: index for index, block in enumerate(planned.full_model.blocks)}
    stages = run.directory.table("timeline", ["rank", "stage"]).to_pandas().dropna().groupby("rank")["stage"].unique()
    found: dict[int, str] = {}
    for rank, of_worker in stages.items():
        names = [block.name for block in planned.local_model(int(str(rank))).blocks]
        cuts = [0, *(i + 1 for i, (a, b) in enumerate(pairwise(names)) if number[b] != number[a] + 1), len(names)]
        if len(cuts) - 1 == len(of_worker):
            for stage, (first, last) in zip(sorted(of_worker), pairwise(cuts), strict=True):
                found[int(stage)] = " – ".join(dict.fromkeys((names[first], names[last - 1])))
    return found


def lane_names(mesh: Mapping[str, int], has_one_stage_each: bool) -> list[str]:
    """Returns the position of each worker in the mesh, such as ``data 0 · stage 1``; ``worker 0`` for a single worker.

    Args:
        mesh: axis → size, outer to inner.
        has_one_stage_each: whether the position along the pipeline axis is the worker's stage.
    """
    arranged = Mesh(dict(mesh))
    if not arranged.axes:
        return ["worker 0"]
    word = {"pipeline": "stage" if has_one_stage_each else "pipeline"}
    order = sorted(arranged.axes, key=lambda axis: axis == "pipeline")
    return [
        " · ".join(f"{word.get(axis, axis)} {coordinate[axis]}" for axis in order)
        for coordinate in map(arranged.coordinate, range(arranged.num_workers))
    ]


def shares(lanes: Lanes) -> pd.DataFrame:
    """Returns how each worker spends the step: ``worker``, ``busy`` (all events but waits), ``communication`` and ``idle``, as
    shares of the time from the first event of any worker to the last. The rest is no event."""
    kinds = np.array([activity.kind for activity in lanes.activities])
    rows = []
    for lane in lanes.lanes:
        kind, length = kinds[lane.activity], (lane.end_ms - lane.begin_ms) / (lanes.end_ms or 1.0)
        waits = {name: float(length[kind == name].sum()) for name in WAITS}
        rows.append({"worker": lane.worker, "busy": float(length.sum()) - sum(waits.values()), **waits})
    return pd.DataFrame(rows, columns=["worker", "busy", *WAITS])


def sentence(shares: pd.DataFrame) -> str:
    """Returns what the shares say, such as ``Worker 0 computes 62 %, waits 21 %.``

    Args:
        shares: as of ``shares``, with a row or more.
    """
    each = [f"orker {row.worker} computes {row.busy:.0%}, waits {row.idle:.0%}" for row in shares.itertuples()]
    each = [text.replace("%", " %") for text in each]
    if len(each) <= _EVERY:
        return "W" + "; w".join(each) + "."
    least, most = (each[int(index)] for index in (shares["busy"].argmin(), shares["busy"].argmax()))
    mean = f"Workers compute {shares['busy'].mean():.0%}, wait {shares['idle'].mean():.0%} on average".replace("%", " %")
    return f"{mean}; most busy: w{most}; least busy: w{least}."


def _operation_of(events: pd.DataFrame, operations: pd.DataFrame) -> pd.DataFrame:
    """Returns axis, phase, peer and payload of the operation behind each event of a worker. An operation is issued when it
    begins, and a wait for it ends when it ends; the idle part of a wait ends when the rest of it begins."""
    kinds, starts, ends = (events[column].to_numpy() for column in ("kind", "start_s", "end_s"))
    begun, ended = _position(operations["start_s"]), _position(operations["end_s"])
    of_communication = np.where((index := ended(ends)) >= 0, index, begun(starts))
    is_communication = kinds == "communication"
    rest = _position(pd.Series(np.where(is_communication, starts, np.nan)))(ends)
    of_idle = np.where((index := ended(ends)) >= 0, index, np.where(rest >= 0, of_communication[rest], -1))
    found = np.where(is_communication, of_communication, np.where(kinds == "idle", of_idle, -1))
    columns = operations[["axis", "phase", "peer", "payload_bytes"]].reset_index(drop=True)
    return columns.reindex(found).reset_index(drop=True)


def _position(times: pd.Series) -> Any:
    """Returns the function from times to the positions of equal ones among ``times``, −1 where there is none."""
    values = times.to_numpy(dtype=float)
    order = np.argsort(values, kind="stable")[: np.count_nonzero(~np.isnan(values))]
    ordered = values[order]

    def position(wanted: np.ndarray) -> np.ndarray:
        if not len(ordered):
            return np.full(len(wanted), -1)
        index = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
        return np.where(ordered[index] == wanted, order[index], -1)

    return position


def _lanes(parts: Sequence[tuple[int, pd.DataFrame]], start: float, unit_ms: float, blocks: Mapping[int, str]) -> Lanes:
    """Returns lanes from the events of each worker, in order of begin."""
    columns = ["kind", "name", "stage", "microbatch", "axis", "phase", "peer", "payload_bytes"]
    every = pd.concat([frame[columns] for _, frame in parts]) if parts else pd.DataFrame(columns=columns)
    code = np.zeros(len(every), np.int64)
    for column in columns:  # one number per combination of values, as grouping by eight columns is slow
        values, unique = pd.factorize(every[column])
        code, _ = pd.factorize(code * (len(unique) + 1) + values)
    _, first = np.unique(code, return_index=True)
    activities = tuple(_activity(row, blocks) for row in every.iloc[first].to_dict("records"))
    lanes, offset = [], 0
    for worker, frame in parts:
        begin, end = ((frame[column].to_numpy() - start) * unit_ms for column in ("start_s", "end_s"))
        edges, event = _innermost(frame["kind"].to_numpy(), begin, end)
        activity = code[offset : offset + len(frame)][event]
        lanes.append(Lane(worker, edges[0], edges[1], begin[event], end[event], activity))
        offset += len(frame)
    return Lanes(tuple(lanes), activities)


def _innermost(kinds: np.ndarray, begin: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pieces of events as begins and ends, and the event of each: at each moment the innermost."""
    edges = np.unique(np.concatenate([begin, end]))
    middle = (edges[:-1] + edges[1:]) / 2
    event = np.full(len(middle), -1)
    for layer in (~np.isin(kinds, WAITS), *(kinds == kind for kind in WAITS)):
        members = np.flatnonzero(layer & (end > begin))
        if len(members):
            latest = np.searchsorted(begin[members], middle) - 1
            covers = (latest >= 0) & (middle < end[members][latest])
            event[covers] = members[latest[covers]]
    changes = np.flatnonzero(np.diff(event, prepend=-2))
    ends = np.append(changes[1:], len(event))
    is_event = event[changes] >= 0 if len(event) else np.zeros(0, bool)
    firsts, lasts = changes[is_event], ends[is_event]
    return np.stack([edges[firsts], edges[lasts]]), event[firsts]


def _activity(row: Mapping[Any, Any], blocks: Mapping[int, str]) -> Activity:
    def number(column: str) -> int | None:
        return None if pd.isna(row[column]) else int(row[column])

    def text(column: str) -> str:
        return "" if pd.isna(row[column]) else str(row[column])

    stage = number("stage")
    return Activity(
        text("kind"), text("name"), stage, number("microbatch"), blocks.get(-1 if stage is None else stage, ""),
        text("axis"), text("phase"), number("peer"), number("payload_bytes"),
    )  # fmt: skip
