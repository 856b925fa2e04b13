"""Logs the allocations of a worker during a step and derives its memory by category."""

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
    """One storage, from its allocation to its release."""

    reference: Any
    """A weak reference to the storage; its callback notes the release."""
    category: str
    module: str
    """Module that allocated the storage, or the name of its parameter."""
    shape: tuple[int, ...]
    dtype: str
    num_bytes: int = 0
    is_settled: bool = False
    """Whether the category is final: a gradient that is communicated remains a gradient."""
    others: set[str] = field(default_factory=set)
    """Names of further parameters with the same storage, such as gradients in one bucket."""

    def set_category(self, category: str) -> None:
        """Changes the category unless it is final."""
        if not self.is_settled:
            self.category = category

    def as_dict(self, num_bytes: int) -> dict[str, Any]:
        """Returns the row of ``peak_tensors`` at this size; a storage of several tensors has the shape (elements,)."""
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
    """A change of the size of an allocation."""

    time: float
    allocation: Allocation
    num_bytes: int


@dataclass
class Mark:
    """An event after ``position`` entries of the log, and the location of the worker from then on."""

    position: int
    time: float
    event: str
    where: str


@dataclass(frozen=True)
class Peak:
    """The peak of the allocated memory."""

    time: float
    where: str
    by_category: dict[str, int]
    largest: list[dict[str, Any]]
    """The largest tensors: category, module, shape, dtype, bytes."""

    @property
    def num_bytes(self) -> int:
        """Bytes of all categories."""
        return sum(self.by_category.values())

    def figures(self) -> dict[str, Any]:
        """Returns the figures of a worker in ``summary.json``."""
        return {"peak_memory_bytes": self.num_bytes, "peak_memory_event": self.where, "peak_memory_by_category": self.by_category}


class AllocationLog:
    """Changes of the sizes of allocations, and the events between them."""

    def __init__(self) -> None:
        self.total = self.most = 0
        """Bytes allocated, currently and at the peak."""
        self._entries: list[Change] = []
        self._marks: list[Mark] = []
        self._most_at = 0

    def note(self, allocation: Allocation, num_bytes: int) -> None:
        """Records a new size of an allocation; 0 is its release."""
        change = num_bytes - allocation.num_bytes
        allocation.num_bytes = num_bytes
        self._entries.append(Change(time.perf_counter(), allocation, change))
        self.total += change
        if self.total > self.most:
            self.most, self._most_at = self.total, len(self._entries)

    def note_workspace(self, module: str) -> tuple[Change, Change]:
        """Records the end of an operation whose kernel may have allocated workspace memory. Returns its allocation and release,
        whose sizes are set after the step (``fill``)."""
        now, workspace = time.perf_counter(), Allocation(None, "workspace", module, (), "uint8", is_settled=True)
        begin, end = Change(now, workspace, 0), Change(now, workspace, 0)
        self._entries += (begin, end)
        return begin, end

    def fill(self, workspaces: Iterable[tuple[tuple[Change, Change], int]]) -> None:
        """Sets the sizes of workspaces and recomputes the peak."""
        for (begin, end), num_bytes in workspaces:
            begin.num_bytes, end.num_bytes = num_bytes, -num_bytes
        self.most = self._most_at = 0
        for count, total in enumerate(accumulate(entry.num_bytes for entry in self._entries), start=1):
            if total > self.most:
                self.most, self._most_at = total, count

    def mark(self, event: str, where: str) -> None:
        """Records an event, after which the worker is in ``where``."""
        self._marks.append(Mark(len(self._entries), time.perf_counter(), event, where))

    def peak(self) -> Peak:
        """Returns the peak of the allocated memory by category, and its largest tensors."""
        alive: Counter[Allocation] = Counter()
        for entry in self._entries[: self._most_at]:
            alive[entry.allocation] += entry.num_bytes
        by_category = dict.fromkeys(CATEGORIES, 0)
        for allocation, num_bytes in alive.items():
            by_category[allocation.category] += num_bytes
        largest = [allocation.as_dict(size) for allocation, size in alive.most_common(NUM_LARGEST) if size]
        where = next((m.where for m in reversed(self._marks) if m.position < self._most_at), "the beginning of the step")
        return Peak(self._entries[self._most_at - 1].time, where, by_category, largest)

    def bytes_at_end(self) -> dict[str, int]:
        """Returns the bytes by category at the end of the step."""
        alive = dict.fromkeys(CATEGORIES, 0)
        _add(alive, self._entries[: self._marks[-1].position])
        return alive

    def rows(self) -> list[dict[str, Any]]:
        """Returns the bytes by category at each event, and the maximum between two events if it is larger than at both; the
        overall maximum is the event ``peak``."""
        alive, rows = dict.fromkeys(CATEGORIES, 0), list[dict[str, Any]]()

        def note(now: float, event: str, totals: dict[str, int]) -> None:
            rows.extend({"time_s": now, "event": event, "category": c, "bytes": b} for c, b in totals.items())

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
    """Returns the maximum bytes of activations at the beginning of a backward pass, of a batch or a microbatch."""
    begins = ("backward begins", "backward_input begins")
    return max((r["bytes"] for r in rows if r["category"] == "activations" and r["event"].startswith(begins)), default=None)
