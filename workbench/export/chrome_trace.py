"""Writes runs as a trace for Perfetto, ``chrome://tracing`` and speedscope, after Google's document "Trace Event Format".

A worker is a process with threads for its steps, computation, communication and waits. Times are microseconds of the clock of
the run, with nanosecond precision. Events of a thread are consecutive or nested, as the format requires; concurrent operations
have separate threads.
"""

from __future__ import annotations

import gzip
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from workbench.store.directory import RunDirectory, StoredRun

Row = dict[str, Any]
WAITS = ("idle", "communication")
"""Kinds of ``timeline`` for waits; they lie inside the intervals that waited."""


def write_trace(runs: Iterable[StoredRun], to: Path) -> Path:
    """Writes the trace of these runs as JSON, one event per line, compressed if the name ends in ``.gz``. Returns the file."""
    encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
    to.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(to, "wt") if to.suffix == ".gz" else to.open("w") as file:
        file.write('{"displayTimeUnit":"ms","traceEvents":[')
        for number, event in enumerate(trace_events(runs)):
            file.write(("," if number else "") + "\n" + encode(event))
        file.write("\n]}\n")
    return to


def trace_events(runs: Iterable[StoredRun]) -> Iterator[Row]:
    """Yields the events of these runs."""
    ids = itertools.count(1)  # shared by processes, threads and flows; viewers treat 0 as no process
    for run in (run.directory for run in runs):
        record = run.record()
        workers = [_Worker(next(ids), ids) for _ in range(record.num_workers)]
        tables = {name: _by_rank(run, name) for name in ("steps", "timeline", "communication", "memory")}
        for rank, worker in enumerate(workers):
            rank_rows = {name: rows.get(rank, []) for name, rows in tables.items()}
            yield worker.metadata("process_name", name=f"worker {rank} of {record.split}, run {run.id}")
            yield worker.metadata("process_sort_index", sort_index=worker.pid)
            yield from worker.threads("steps", [_step(row) for row in rank_rows["steps"]], nest=True)
            yield from worker.threads(
                "compute", [_span(row) for row in rank_rows["timeline"] if row["kind"] not in WAITS], nest=True
            )
            yield from worker.threads("communication", [_operation(row) for row in rank_rows["communication"]], nest=False)
            yield from worker.threads(
                "waiting", [_wait(row) for row in rank_rows["timeline"] if row["kind"] in WAITS], nest=False
            )
            yield from _memory(worker.pid, rank_rows["memory"])
        yield from _flows(workers, itertools.chain(*tables["communication"].values()), ids)


def _by_rank(run: RunDirectory, name: str) -> dict[int, list[Row]]:
    rows = run.table(name).to_pylist()  # in order of rank
    return {rank: list(rank_rows) for rank, rank_rows in itertools.groupby(rows, key=lambda row: row["rank"])}


class _Worker:
    """Ids of a worker's process and threads."""

    def __init__(self, pid: int, ids: Iterator[int]) -> None:
        self.pid, self.ids = pid, ids
        self.thread_of: dict[tuple[int, int], int] = {}
        """Step and index of an operation in the table → its thread."""

    def metadata(self, kind: str, tid: int = 0, **args: Any) -> Row:
        """Returns a metadata event (phase M): the name or sort index of the process or a thread."""
        return {"name": kind, "ph": "M", "ts": 0, "pid": self.pid, "tid": tid, "args": args}

    def threads(self, name: str, events: list[Row], nest: bool) -> Iterator[Row]:
        """Assigns threads to events, as many as needed.

        Args:
            events: Events with ``start`` and ``end`` in nanoseconds. An event without a known end (an operation that was not
                waited for, or on a GPU) becomes an instant.
            nest: Whether events may be nested.
        """
        open_until: list[list[int]] = []
        tids: list[int] = []
        for event in sorted(events, key=lambda e: (e["start"], -(e["end"] or e["start"]))):
            start, end = event.pop("start"), event.pop("end")
            lane = _lane(open_until, start, start if end is None else end, nest)
            if lane == len(tids):
                tids.append(next(self.ids))
                yield self.metadata("thread_name", tids[lane], name=name if lane == 0 else f"{name} {lane + 1}")
                yield self.metadata("thread_sort_index", tids[lane], sort_index=tids[lane])
            if event["cat"] == "communication":
                self.thread_of[event["args"]["step"], event["args"]["index"]] = tids[lane]
            timed = {"ph": "i", "s": "t"} if end is None else {"ph": "X", "dur": _microseconds(end - start)}
            yield {**event, **timed, "ts": _microseconds(start), "pid": self.pid, "tid": tids[lane]}


def _lane(open_until: list[list[int]], start: int, end: int, nest: bool) -> int:
    """Returns the first lane that is free or, if events may ``nest``, whose open event does not end before this one."""
    for lane, ends in enumerate(open_until):
        while ends and ends[-1] <= start:
            ends.pop()
        if not ends or (nest and end <= ends[-1]):
            ends.append(end)
            return lane
    open_until.append([end])
    return len(open_until) - 1


def _step(row: Row) -> Row:
    start = _nanoseconds(row["start_s"])
    end = start + _nanoseconds(row["duration_s"])
    return {"name": f"{row['kind']} step", "cat": "step", "start": start, "end": end, "args": _args(row, "start_s", "duration_s")}


def _span(row: Row) -> Row:
    microbatch = "" if row["microbatch"] is None else f" {row['microbatch']}"
    name = f"{row['kind']}{microbatch}" + (f": {row['name']}" if row["name"] else "")
    return {"name": name, "cat": row["kind"], **_from_to(row), "args": _args(row)}


def _operation(row: Row) -> Row:
    return {"name": row["operation"], "cat": "communication", **_from_to(row), "args": _args(row)}


def _wait(row: Row) -> Row:
    name = "idle" if row["kind"] == "idle" else "exposed communication"
    return {"name": name, "cat": "wait", **_from_to(row), "args": _args(row)}


def _memory(pid: int, rows: list[Row]) -> Iterator[Row]:
    """Yields counters (phase C) of bytes by category. A peak without a time, as older runs recorded it after the end of the step,
    is left out."""
    for _, in_step in itertools.groupby(rows, key=lambda row: row["step"]):
        moments = [list(alive) for _, alive in itertools.groupby(in_step, key=lambda row: (row["time_s"], row["event"]))]
        if moments[-1][0]["event"] == "peak":
            moments.pop()
        for alive in moments:
            args: Counter[str] = Counter()
            for row in alive:
                args[row["category"]] += row["bytes"]
            ts = _microseconds(_nanoseconds(alive[0]["time_s"]))
            yield {"name": "memory", "cat": "memory", "ph": "C", "ts": ts, "pid": pid, "args": args}


def _flows(workers: list[_Worker], rows: Iterable[Row], ids: Iterator[int]) -> Iterator[Row]:
    """Yields an arrow (phases s and f) from each send to its receive: the n-th from one worker to another in a group and step."""
    sent: Counter[tuple[Any, ...]] = Counter()
    ends: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        if row["operation"] in ("send", "recv") and _from_to(row)["end"] is not None:
            pair = (row["rank"], row["peer"]) if row["operation"] == "send" else (row["peer"], row["rank"])
            key = (row["step"], row["group"], *pair)
            sent[key, row["operation"]] += 1
            ends.setdefault((*key, sent[key, row["operation"]]), {})[row["operation"]] = row
    for both in ends.values():
        if len(both) < 2:
            continue
        flow, began = next(ids), _nanoseconds(both["send"]["start_s"])
        received = _from_to(both["recv"])
        # When both have started: inside the event of the receive, to which the end of the arrow binds.
        arrived = min(max(began, received["start"]), received["end"])
        for phase, row, at in (("s", both["send"], began), ("f", both["recv"], arrived)):
            worker = workers[row["rank"]]
            binding = {"bp": "e"} if phase == "f" else {}
            common = {"name": "send to receive", "cat": "flow", "ph": phase, "id": flow, "ts": _microseconds(at), **binding}
            yield {**common, "pid": worker.pid, "tid": worker.thread_of[row["step"], row["index"]]}


def _from_to(row: Row) -> dict[str, Any]:
    """Returns start and end; an operation ends at its completion or at the end of the wait for it, whichever is known to be
    first."""
    end_s = min((t for t in (row["end_s"], row.get("completed_s")) if t is not None), default=None)
    return {"start": _nanoseconds(row["start_s"]), "end": None if end_s is None else _nanoseconds(end_s)}


def _args(row: Row, *elsewhere: str) -> Row:
    """Returns the other values of a row; JSON has no infinite values."""
    left_out = ("run_id", "rank", "start_s", "end_s", *elsewhere)
    values = {key: value for key, value in row.items() if key not in left_out and value is not None}
    return {key: value for key, value in values.items() if not (isinstance(value, float) and not math.isfinite(value))}


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def _microseconds(nanoseconds: int) -> float:
    return nanoseconds / 1000
