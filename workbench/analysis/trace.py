"""Reads one trace step of a run: the timeline of its workers, their operations, and the overlap of the two."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from workbench.analysis.traffic_matrix import traffic_matrix
from workbench.store.directory import StoredRun
from workbench.store.tables import done_s

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


def spans_s(run: StoredRun) -> dict[int, float]:
    """Returns trace step → the time from the begin of its first event to the end of its last, over all workers, in order: what
    the axis of the timeline covers. It is longer than the step of any worker if the workers do not begin at the same time."""
    table = run.directory.table("timeline", ["step", "start_s", "end_s"])
    spans = table.group_by("step").aggregate([("start_s", "min"), ("end_s", "max")]).sort_by("step")
    return {row["step"]: row["end_s_max"] - row["start_s_min"] for row in spans.to_pylist()}


def typical_step(run: StoredRun) -> int:
    """Returns the trace step whose duration, that of its slowest worker, is closest to the median of the timed steps, or of the
    trace steps without any timed ones; the last one if no duration is known. The run has a trace step."""
    traced, durations = steps(run), _slowest(run, "trace")
    of_trace = {step: durations[step] for step in traced if step in durations}
    if not of_trace:
        return traced[-1]
    median = float(np.median(list((_slowest(run, "timed") or of_trace).values())))
    return min(of_trace, key=lambda step: abs(of_trace[step] - median))


def step_label(step: int, span_s: float) -> str:
    """Returns number and span of a step, such as ``23 · 152 ms``."""
    return f"{step} · " + (f"{span_s * 1e3:.3g} ms" if span_s < 1 else f"{span_s:.2f} s")


def _slowest(run: StoredRun, kind: str) -> dict[int, float]:
    frame = run.directory.table("steps", ["step", "kind", "duration_s"]).to_pandas()
    of_kind = frame[frame["kind"] == kind].groupby("step")["duration_s"].max()
    return {int(str(step)): float(duration) for step, duration in of_kind.items()}


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
    return _of_step(run, "timeline", ("rank", "kind", "stage", "microbatch", "name", "start_s", "end_s"), step)


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


def intervals(timeline: pa.Table, start_s: float, part_ms: tuple[float, float] | None = None) -> pd.DataFrame:
    """Returns the events of each worker in a step, or in a part of it, cut to it. Waits lie inside other events.

    Args:
        timeline: as of ``timeline_of``.
        start_s: start of the step, as of ``span_s``.
        part_ms: start and end of the part, in milliseconds since ``start_s``; None for the whole step.

    Returns:
        The columns of ``timeline``, times in milliseconds since ``start_s``.
    """
    begin_ms, end_ms = part_ms or (0.0, float("inf"))
    frame = timeline.to_pandas()
    frame["begin_ms"], frame["end_ms"] = ((frame[column] - start_s) * 1e3 for column in ("start_s", "end_s"))
    frame = frame[(frame["begin_ms"] < end_ms) & (frame["end_ms"] > begin_ms)]
    cut = {column: frame[column].clip(begin_ms, end_ms) for column in ("begin_ms", "end_ms")}
    return frame.assign(worker=frame["rank"].astype(str), **cut)[COLUMNS]


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
    events = intervals(timeline, start_s)
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
        events.assign(lane=events["worker"], operation=""),
        in_flight.assign(lane=in_flight["worker"] + " " + IN_FLIGHT),
    ]
    return pd.concat(both, ignore_index=True)[["worker", "lane", "kind", "operation", "begin_ms", "end_ms"]]


def traffic_matrix_of_step(communication: pa.Table) -> pd.DataFrame:
    """Returns ``traffic_matrix`` of one step. Sums come first, because a step can have many operations."""
    keys, sums = ["step", "axis", "group", "rank", "operation", "peer"], ["payload_bytes", "ring_bytes"]
    grouped = communication.group_by(keys).aggregate([(column, "sum") for column in sums])
    return traffic_matrix(grouped.to_pandas().rename(columns={f"{column}_sum": column for column in sums}))
