"""What Google's document "Trace Event Format" demands of each event, field by field."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

Event = dict[str, Any]
COMMON = {"name": str, "ph": str, "ts": int | float, "pid": int, "tid": int}
FIELDS: dict[str, dict[str, Any]] = {
    "X": {**COMMON, "cat": str, "dur": int | float, "args": dict},
    "i": {**COMMON, "cat": str, "s": str, "args": dict},
    "s": {**COMMON, "cat": str, "id": int},
    "f": {**COMMON, "cat": str, "id": int, "bp": str},
    "C": {key: kind for key, kind in {**COMMON, "cat": str, "args": dict}.items() if key != "tid"},
    "M": {**COMMON, "args": dict},
}
"""Phase → every field of its events here, with its type. Of these the document has optional: ``bp``, ``args``, ``tid`` of C."""
METADATA = {"process_name": ("name", str), "process_sort_index": ("sort_index", int)}
METADATA |= {"thread_name": ("name", str), "thread_sort_index": ("sort_index", int)}


def mistakes(document: dict[str, Any]) -> list[str]:
    """Where a trace departs from the format; none, if it keeps to it."""
    events: list[Event] = document["traceEvents"]
    found = [] if document["displayTimeUnit"] in ("ms", "ns") else ["displayTimeUnit"]
    for event in events:
        found += [f"{problem}: {event}" for problem in _of_event(event)]
    return found or [*_of_flows(events), *_of_threads(events)]


def _of_event(event: Event) -> list[str]:
    fields = FIELDS.get(event.get("ph", ""))
    if fields is None:
        return ["unknown phase"]
    if set(event) != set(fields):
        return [f"fields {sorted(set(event) ^ set(fields))} are missing or not of phase {event['ph']}"]
    wrong = [key for key, kind in fields.items() if not isinstance(event[key], kind) or isinstance(event[key], bool)]
    if wrong:
        return [f"type of {key}" for key in wrong]
    problems = []
    if event["ts"] < 0 or event.get("dur", 0) < 0:
        problems.append("negative time")
    if event["ph"] == "C" and not (event["args"] and all(type(value) in (int, float) for value in event["args"].values())):
        problems.append("a counter's series are numbers")
    if event["ph"] == "M":
        key, kind = METADATA[event["name"]]
        problems += [] if set(event["args"]) == {key} and isinstance(event["args"][key], kind) else ["metadata"]
    if (event["ph"] == "i" and event["s"] not in "gpt") or (event["ph"] == "f" and event["bp"] != "e"):
        problems.append("scope or binding point")
    return problems


def _of_flows(events: list[Event]) -> list[str]:
    """Each flow begins once and ends once, not before, under one name and category, inside an event of its thread."""
    problems = []
    flows = defaultdict(list)
    slices = defaultdict(list)
    for event in events:
        if event["ph"] in "sf":
            flows[event["id"]].append(event)
        elif event["ph"] == "X":
            slices[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    for flow, ends in flows.items():
        if [end["ph"] for end in ends] != ["s", "f"] or ends[0]["ts"] > ends[1]["ts"]:
            problems.append(f"flow {flow} does not pair up")
        if len({(end["name"], end["cat"]) for end in ends}) != 1:
            problems.append(f"flow {flow} changes its name or category")
        for end in ends:
            if not any(start <= end["ts"] <= stop for start, stop in slices[end["pid"], end["tid"]]):
                problems.append(f"flow {flow} is bound to no event")
    return problems


def _of_threads(events: list[Event]) -> list[str]:
    """Every thread and process has a name, and what a thread does follows or lies inside what it did before."""
    named = {(e["name"], e["pid"], e["tid"]) for e in events if e["ph"] == "M"}
    problems = []
    threads = defaultdict(list)
    for event in events:
        if event["ph"] in "Xi":
            threads[event["pid"], event["tid"]].append(
                (round(event["ts"] * 1e3), round((event["ts"] + event.get("dur", 0)) * 1e3))
            )
    for (pid, tid), spans in threads.items():
        if ("thread_name", pid, tid) not in named or ("process_name", pid, 0) not in named:
            problems.append(f"thread {tid} of process {pid} has no name")
        under_way: list[int] = []
        for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
            while under_way and under_way[-1] <= start:
                under_way.pop()
            if under_way and end > under_way[-1]:
                problems.append(f"thread {tid}: an event from {start} to {end} ns ends after what it began in")
            under_way.append(end)
    return problems
