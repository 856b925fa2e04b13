"""Reads one trace step of a run: the timeline of its workers, their operations, and the overlap of the two. Long steps are
summarized to an outline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from workbench.analysis.traffic_matrix import traffic_matrix
from workbench.store.directory import StoredRun
from workbench.store.tables import done_s

MAX_BARS = 3000
"""Largest number of intervals that are drawn one by one; of more, an outline is drawn."""
_WAITS = ("communication", "idle")
"""Kinds that lie inside other intervals. Time that they cover does not count as that of the interval around them."""
_BUSY = 0.01
"""Share of a piece of time that events must cover; a piece with less is empty."""
_COMMUNICATION = (
    "rank", "step", "index", "operation", "axis", "group", "peer", "phase", "payload_bytes", "ring_bytes", "start_s", "end_s",
    "completed_s", "exposed_communication_s", "idle_s",
)  # fmt: skip
IN_FLIGHT = "in flight"
COLUMNS = ["kind", "stage", "microbatch", "worker", "begin_ms", "end_ms"]


def steps(run: StoredRun) -> list[int]:
    """Returns the numbers of the trace steps of a run, in order."""
    run = run.directory
    return sorted(pc.unique(run.table("timeline", ["step"])["step"]).to_pylist())


def untraced(run: StoredRun) -> str:
    """Returns a sentence that says why a run has no trace steps."""
    run = run.directory
    if run.record().device == "cuda":
        return "The timeline is not measured on GPUs yet: the host clock does not see when kernels run."
    reason = "measure.num_trace_steps is 0" if run.summary() else "the run has not reached its trace steps"
    return f"No trace step was recorded: {reason}."


def timeline(run: StoredRun) -> pd.DataFrame:
    """Returns the timeline of the last trace step: kind, stage, microbatch, worker, begin and end in milliseconds since its
    start. Waits lie inside other intervals and are drawn over them."""
    run = run.directory
    frame = run.table("timeline").to_pandas()
    frame = frame[frame["step"] == frame["step"].max()]
    start = frame["start_s"].min()
    return pd.DataFrame(
        {
            "kind": frame["kind"],
            "stage": frame["stage"],
            "microbatch": frame["microbatch"],
            "worker": frame["rank"].astype(str),
            "begin_ms": (frame["start_s"] - start) * 1e3,
            "end_ms": (frame["end_s"] - start) * 1e3,
        }
    )


def timeline_of(run: StoredRun, step: int) -> pa.Table:
    """Returns the rows of ``timeline`` of a step, in order of rank, with the columns that this module uses."""
    return _of_step(run, "timeline", ("rank", "kind", "stage", "microbatch", "start_s", "end_s"), step)


def communication_of(run: StoredRun, step: int) -> pa.Table:
    """Returns the rows of ``communication`` of a step, in order of rank, with the columns that this module uses and
    ``done_s``."""
    table = _of_step(run, "communication", _COMMUNICATION, step)
    return table.append_column("done_s", done_s(table))


def _of_step(run: StoredRun, name: str, columns: Sequence[str], step: int) -> pa.Table:
    """Returns the rows of a step. A single trace step, which can be long, is not filtered, because all rows are its own."""
    run = run.directory
    return run.table(name, columns, step if len(steps(run)) > 1 else None)


def of_workers(table: pa.Table, ranks: Sequence[int]) -> pa.Table:
    """Returns the rows of these workers, or of all workers if none is given."""
    return table.filter(pc.is_in(table["rank"], pa.array(ranks, pa.int64()))) if ranks else table


def span_s(timeline: pa.Table) -> tuple[float, float]:
    """Returns the start of the first event of a step and the end of its last, in seconds on the clock of the run."""
    return pc.min(timeline["start_s"]).as_py(), pc.max(timeline["end_s"]).as_py()


def lanes(
    timeline: pa.Table, start_s: float, part_ms: tuple[float, float] | None = None, most: int = MAX_BARS
) -> tuple[pd.DataFrame, bool]:
    """Returns the intervals of each worker in a step, or in a part of it.

    Of more than ``most`` intervals, it returns an outline: time is divided into equal pieces, and each has the kind of most of
    its time.

    Args:
        timeline: as of ``timeline_of``.
        start_s: start of the step, as of ``span_s``.
        part_ms: start and end of the part, in milliseconds since ``start_s``; None for the whole step.
        most: largest number of intervals before the outline.

    Returns:
        A frame with the columns of ``timeline``, times in milliseconds since ``start_s``, and whether it is an outline.
    """
    if part_ms is not None:
        begins, ends = (start_s + edge / 1e3 for edge in part_ms)
        timeline = timeline.filter(pc.and_(pc.less(timeline["start_s"], ends), pc.greater(timeline["end_s"], begins)))
    if len(timeline) > most:
        return _outline(timeline, start_s, part_ms, most), True
    frame = timeline.to_pandas()
    frame["begin_ms"], frame["end_ms"] = (_milliseconds(frame[column], start_s, part_ms) for column in ("start_s", "end_s"))
    return frame.assign(worker=frame["rank"].astype(str))[COLUMNS], False


def operations_of(
    communication: pa.Table, start_s: float, names: Sequence[str] = (), axes: Sequence[str] = (), most: int = 1000
) -> tuple[pd.DataFrame, int]:
    """Returns the operations of a step in order of issue.

    Args:
        communication: as of ``communication_of``.
        start_s: start of the step, as of ``span_s``.
        names: names of operations; all if empty.
        axes: mesh axes; all if empty.
        most: largest number of rows.

    Returns:
        The first ``most`` rows, times in milliseconds since ``start_s``, and the number of all.
    """
    selected = communication
    for column, chosen in (("operation", names), ("axis", axes)):
        if chosen:
            selected = selected.filter(pc.is_in(selected[column], pa.array(chosen, pa.string())))
    frame = selected.take(pc.sort_indices(selected["start_s"])[:most]).to_pandas()
    columns = frame[["rank", "index", "operation", "axis", "group", "peer", "phase", "payload_bytes"]].assign(
        begin_ms=(frame["start_s"] - start_s) * 1e3,
        duration_ms=(frame["done_s"] - frame["start_s"]) * 1e3,
        exposed_ms=frame["exposed_communication_s"] * 1e3,
        idle_ms=frame["idle_s"] * 1e3,
    )
    return columns, len(selected)


def overlap_of(run: StoredRun) -> pd.DataFrame:
    """Returns ``overlap`` of the last trace step of a run."""
    step = steps(run)[-1]
    timeline = timeline_of(run, step)
    return overlap(timeline, communication_of(run, step), span_s(timeline)[0])


def overlap(timeline: pa.Table, communication: pa.Table, start_s: float) -> pd.DataFrame:
    """Returns two lanes per worker: its intervals, and the operations in flight, from entry to completion. They show which
    communication overlaps with compute, which no part of a step shows because it costs no time.

    Operations that no worker waited for are left out.

    Args:
        timeline: rows of a step, as of ``timeline_of``.
        communication: rows of the step, as of ``communication_of``.
        start_s: start of the step, as of ``span_s``.

    Returns:
        Columns ``worker``, ``lane``, ``kind`` (of ``timeline``, or ``in flight``), ``operation``, and ``begin_ms`` and
        ``end_ms`` in milliseconds since ``start_s``.
    """
    operations = communication.to_pandas()
    intervals, _ = lanes(timeline, start_s)
    operations = operations[(operations["operation"] != "barrier") & operations["end_s"].notna()]
    in_flight = pd.DataFrame(
        {
            "worker": operations["rank"].astype(str),
            "kind": IN_FLIGHT,
            "operation": operations["operation"],
            "begin_ms": (operations["start_s"] - start_s) * 1e3,
            "end_ms": (operations["done_s"] - start_s) * 1e3,
        }
    )
    both = [
        intervals.assign(lane=intervals["worker"], operation=""),
        in_flight.assign(lane=in_flight["worker"] + " " + IN_FLIGHT),
    ]
    return pd.concat(both, ignore_index=True)[["worker", "lane", "kind", "operation", "begin_ms", "end_ms"]]


def traffic_matrix_of_step(communication: pa.Table) -> pd.DataFrame:
    """Returns ``traffic_matrix`` of one step. Sums come first, because a step can have many operations."""
    keys, sums = ["step", "axis", "group", "rank", "operation", "peer"], ["payload_bytes", "ring_bytes"]
    grouped = communication.group_by(keys).aggregate([(column, "sum") for column in sums])
    return traffic_matrix(grouped.to_pandas().rename(columns={f"{column}_sum": column for column in sums}))


def _milliseconds(times: Any, start_s: float, part_ms: tuple[float, float] | None) -> Any:
    """Returns times in milliseconds since ``start_s``, clipped to the part."""
    relative = (times - start_s) * 1e3
    return relative if part_ms is None else relative.clip(*part_ms)


def _outline(timeline: pa.Table, start_s: float, part_ms: tuple[float, float] | None, most: int) -> pd.DataFrame:
    """Divides time into at most ``most`` pieces of equal length and merges neighbours of one kind.

    Workers are processed one by one, because arrays of a million rows would exceed the caches; their rows are contiguous.
    """
    firsts = np.flatnonzero(np.diff(timeline["rank"].to_numpy(), prepend=-1))
    begins_ms, ends_ms = _milliseconds(np.array(span_s(timeline)), start_s, part_ms)
    edges = np.linspace(begins_ms, ends_ms, max(2, most // len(firsts)) + 1)
    rows = []
    for first, last in zip(firsts, [*firsts[1:], len(timeline)], strict=True):
        rows_of_rank = timeline.slice(first, last - first)
        kind = rows_of_rank["kind"].combine_chunks().dictionary_encode()
        kinds, kind_of = kind.dictionary.to_pylist(), kind.indices.to_numpy()
        begin, end = (_milliseconds(rows_of_rank[column].to_numpy(), start_s, part_ms) for column in ("start_s", "end_s"))
        covered = np.stack([_covered(begin[kind_of == i], end[kind_of == i], edges) for i in range(len(kinds))])
        waits = np.array([name in _WAITS for name in kinds])
        covered[~waits] -= np.minimum(covered[waits].sum(axis=0), covered[~waits].sum(axis=0)) * _shares(covered[~waits])
        largest = np.where(covered.sum(axis=0) > _BUSY * np.diff(edges), covered.argmax(axis=0), -1)
        changes = np.flatnonzero(np.diff(largest, prepend=-2))
        rows += [
            {"kind": kinds[largest[b]], "worker": str(rows_of_rank["rank"][0]), "begin_ms": edges[b], "end_ms": edges[e]}
            for b, e in zip(changes, [*changes[1:], len(largest)], strict=True)
            if largest[b] >= 0
        ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _covered(begin: np.ndarray, end: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Returns how much of each piece the intervals cover, in milliseconds: the integral of the number of open intervals."""

    def before(times: np.ndarray) -> np.ndarray:
        """Returns Σ max(0, edge − time) for each edge."""
        ordered = np.sort(times, kind="stable")  # fast for sorted input, which the rows of a worker mostly are
        sums = np.concatenate([[0.0], np.cumsum(ordered)])
        counts = np.searchsorted(ordered, edges)
        return np.asarray(counts * edges - sums[counts])

    return np.asarray(np.diff(before(begin) - before(end)))


def _shares(covered: np.ndarray) -> np.ndarray:
    total = covered.sum(axis=0)
    return np.asarray(np.divide(covered, total, out=np.zeros_like(covered), where=total > 0))
