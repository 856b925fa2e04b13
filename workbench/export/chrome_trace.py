"""Runs as a trace that Perfetto, ``chrome://tracing`` and speedscope open, after Google's document "Trace Event Format".

A worker is a process; its threads are its steps, what it computed, its communication and what it waited for. Times are
microseconds of the run's own clock, to the nanosecond. Events of one thread follow each other or lie one inside the other, as
the format asks; operations under way at the same time go to threads of their own.
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
"""Kinds of ``timeline`` that say what a worker stood still for; they lie inside what waited."""


def write_trace(runs: Iterable[StoredRun], to: Path) -> Path:
    """Writes the trace of these runs as JSON, an event a line, compressed where the name ends in ``.gz``; returns the file."""
    encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
    to.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(to, "wt") if to.suffix == ".gz" else to.open("w") as file:
        file.write('{"displayTimeUnit":"ms","traceEvents":[')
        for number, event in enumerate(trace_events(runs)):
            file.write(("," if number else "") + "\n" + encode(event))
        file.write("\n]}\n")
    return to


def trace_events(runs: Iterable[StoredRun]) -> Iterator[Row]:
    """The events of these runs."""
    ids = itertools.count(1)  # of processes, threads and flows alike: viewers take 0 for no process
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
    """The ids of a worker's process and threads."""

    def __init__(self, pid: int, ids: Iterator[int]) -> None:
        self.pid, self.ids = pid, ids
        self.thread_of: dict[tuple[int, int], int] = {}
        """Step and index of an operation in the table → its thread."""

    def metadata(self, kind: str, tid: int = 0, **args: Any) -> Row:
        """Metadata (phase M): the name or the place of the process or one of its threads."""
        return {"name": kind, "ph": "M", "ts": 0, "pid": self.pid, "tid": tid, "args": args}

    def threads(self, name: str, events: list[Row], nest: bool) -> Iterator[Row]:
        """Gives events their threads, as many as it takes. ``start`` and ``end`` are nanoseconds; an event whose end is not known
        (its operation was not waited for, or runs on a GPU) is an instant."""
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
    """The first lane on which nothing is under way, or if they may ``nest`` what is ends no sooner than this event."""
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
    """Counters (phase C) of bytes by category. A peak noted after the end of the step, as runs were once recorded, says how much
    and not when, and is left out."""
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
    """An arrow (phases s and f) from each send to its receive: the n-th from one worker to another in a group and step."""
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
        # Where both have begun: inside the receive's event, to which the arrow's end is bound.
        arrived = min(max(began, received["start"]), received["end"])
        for phase, row, at in (("s", both["send"], began), ("f", both["recv"], arrived)):
            worker = workers[row["rank"]]
            binding = {"bp": "e"} if phase == "f" else {}
            common = {"name": "send to receive", "cat": "flow", "ph": phase, "id": flow, "ts": _microseconds(at), **binding}
            yield {**common, "pid": worker.pid, "tid": worker.thread_of[row["step"], row["index"]]}


def _from_to(row: Row) -> dict[str, Any]:
    """Begin and end: of an operation what is known to have come first, its completion or the end of the wait for it."""
    end_s = min((t for t in (row["end_s"], row.get("completed_s")) if t is not None), default=None)
    return {"start": _nanoseconds(row["start_s"]), "end": None if end_s is None else _nanoseconds(end_s)}


def _args(row: Row, *elsewhere: str) -> Row:
    """What else is known of it; JSON has no value that is not finite."""
    left_out = ("run_id", "rank", "start_s", "end_s", *elsewhere)
    values = {key: value for key, value in row.items() if key not in left_out and value is not None}
    return {key: value for key, value in values.items() if not (isinstance(value, float) and not math.isfinite(value))}


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def _microseconds(nanoseconds: int) -> float:
    return nanoseconds / 1000
