"""The log of what a worker allocates and lets go of during a step, and what it says in the end: how much was alive, of what."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate
from math import prod
from typing import Any

import torch

CATEGORIES = ("parameters", "gradients", "optimizer_state", "activations", "buffers", "communication", "workspace", "other")
NUM_LARGEST = 20


@dataclass(eq=False)
class Allocation:
    """One storage while it lives."""

    reference: Any
    """A weak one to the storage: kept, for its callback notes the end."""
    category: str
    module: str
    """The module that it was made in, or the name of the parameter that it belongs to."""
    shape: tuple[int, ...]
    dtype: str
    num_bytes: int = 0
    is_settled: bool = False
    """Whether its category is what it is for good: a gradient that is sent stays a gradient."""
    others: set[str] = field(default_factory=set)
    """Names of more parameters that it belongs to: gradients share a bucket."""

    def becomes(self, category: str) -> None:
        """Puts it in a category, if it is not known for good what it is."""
        if not self.is_settled:
            self.category = category

    def as_dict(self, num_bytes: int) -> dict[str, Any]:
        """As the table ``peak_tensors`` has it, when it was so large; what is not one tensor has the shape of its elements."""
        item = getattr(torch, self.dtype).itemsize
        shape = self.shape if prod(self.shape) * item == num_bytes else (num_bytes // item,)
        return {
            "category": self.category,
            "module": self.module + (f" and {len(self.others)} more" if self.others else ""),
            "shape": "×".join(map(str, shape)),
            "dtype": self.dtype,
            "bytes": num_bytes,
        }


@dataclass(slots=True)
class Change:
    """An allocation had another size from then on."""

    time: float
    allocation: Allocation
    num_bytes: int


@dataclass
class Mark:
    """What happened after so many entries of the log, and what the worker was in from then on."""

    position: int
    time: float
    event: str
    where: str


@dataclass(frozen=True)
class Peak:
    """The most that was alive at once."""

    time: float
    where: str
    by_category: dict[str, int]
    largest: list[dict[str, Any]]
    """The largest tensors: category, module, shape, dtype, bytes."""

    @property
    def num_bytes(self) -> int:
        """In all."""
        return sum(self.by_category.values())

    def figures(self) -> dict[str, Any]:
        """As ``summary.json`` has them of each worker."""
        return {"peak_memory_bytes": self.num_bytes, "peak_memory_event": self.where, "peak_memory_by_category": self.by_category}


class AllocationLog:
    """Sizes of allocations as they change, and what happened between."""

    def __init__(self) -> None:
        self.total = self.most = 0
        """Bytes alive, now and at most."""
        self._entries: list[Change] = []
        self._marks: list[Mark] = []
        self._most_at = 0

    def note(self, allocation: Allocation, num_bytes: int) -> None:
        """An allocation has another size: 0 when it ends."""
        change = num_bytes - allocation.num_bytes
        allocation.num_bytes = num_bytes
        self._entries.append(Change(time.perf_counter(), allocation, change))
        self.total += change
        if self.total > self.most:
            self.most, self._most_at = self.total, len(self._entries)

    def note_workspace(self, module: str) -> tuple[Change, Change]:
        """An operation has ended whose kernel may have had memory of its own meanwhile: its beginning and its end, whose
        sizes are known once the step is over (``fill``)."""
        now, workspace = time.perf_counter(), Allocation(None, "workspace", module, (), "uint8", is_settled=True)
        begin, end = Change(now, workspace, 0), Change(now, workspace, 0)
        self._entries += (begin, end)
        return begin, end

    def fill(self, workspaces: Iterable[tuple[tuple[Change, Change], int]]) -> None:
        """Gives workspaces their sizes, and finds the most that was alive anew."""
        for (begin, end), num_bytes in workspaces:
            begin.num_bytes, end.num_bytes = num_bytes, -num_bytes
        self.most = self._most_at = 0
        for count, total in enumerate(accumulate(entry.num_bytes for entry in self._entries), start=1):
            if total > self.most:
                self.most, self._most_at = total, count

    def mark(self, event: str, where: str) -> None:
        """Something happened; from then on the worker is in ``where``."""
        self._marks.append(Mark(len(self._entries), time.perf_counter(), event, where))

    def peak(self) -> Peak:
        """The most that was alive at once, with what that was."""
        alive: Counter[Allocation] = Counter()
        for entry in self._entries[: self._most_at]:
            alive[entry.allocation] += entry.num_bytes
        by_category = dict.fromkeys(CATEGORIES, 0)
        for allocation, num_bytes in alive.items():
            by_category[allocation.category] += num_bytes
        largest = [allocation.as_dict(size) for allocation, size in alive.most_common(NUM_LARGEST) if size]
        where = next((m.where for m in reversed(self._marks) if m.position < self._most_at), "the beginning of the step")
        return Peak(self._entries[self._most_at - 1].time, where, by_category, largest)

    def held(self) -> dict[str, int]:
        """By category what is alive at the end of the step."""
        alive = dict.fromkeys(CATEGORIES, 0)
        _add(alive, self._entries[: self._marks[-1].position])
        return alive

    def rows(self) -> list[dict[str, Any]]:
        """What was alive at each event, and between two events the most if that is more than at both; the most of all is the
        event ``peak``."""
        alive, rows = dict.fromkeys(CATEGORIES, 0), list[dict[str, Any]]()

        def note(now: float, event: str, totals: dict[str, int]) -> None:
            rows.extend({"time": now, "event": event, "category": c, "bytes": b} for c, b in totals.items())

        for mark, following in zip(self._marks, [*self._marks[1:], None], strict=True):
            if mark is self._marks[0]:
                _add(alive, self._entries[: mark.position])
            note(mark.time, mark.event, alive)
            if following is None:
                break
            if mark is self._marks[0] and self._most_at <= mark.position:
                note(mark.time, "peak", alive)
            between = self._entries[mark.position : following.position]
            total = before = sum(alive.values())
            highest, most = 0, total
            for count, entry in enumerate(between, start=1):
                total += entry.num_bytes
                if total > most:
                    highest, most = count, total
            _add(alive, between[:highest])
            is_peak = mark.position < self._most_at <= following.position
            if is_peak or most > max(before, total):
                note(between[highest - 1].time, "peak" if is_peak else f"in {mark.where}", alive)
            _add(alive, between[highest:])
        return rows


def _add(alive: dict[str, int], entries: Iterable[Change]) -> None:
    for entry in entries:
        alive[entry.allocation.category] += entry.num_bytes


def kept_activations(rows: list[dict[str, Any]]) -> int | None:
    """The most activations alive when the backward pass of a batch, or of a microbatch, begins."""
    begins = ("backward begins", "backward_input begins")
    return max((r["bytes"] for r in rows if r["category"] == "activations" and r["event"].startswith(begins)), default=None)
