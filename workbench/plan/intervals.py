"""Divides nested and overlapping intervals of time into pieces that belong to the innermost interval."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Interval(NamedTuple, Generic[T]):
    """An interval of time, in seconds of any clock, with a value."""

    start: float
    end: float
    what: T

    @property
    def length(self) -> float:
        """Length in seconds."""
        return self.end - self.start


def innermost(intervals: Iterable[Interval[T]]) -> Iterator[Interval[T]]:
    """Yields the covered time as disjoint pieces, in order. Each moment belongs to the interval that started last of those that
    contain it; of two intervals that overlap in part, the later one counts until it ends."""
    around: list[Interval[T]] = []
    now = float("-inf")
    for interval in sorted(intervals, key=lambda i: (i.start, -i.end)):
        while around and around[-1].end <= interval.start:
            last = around.pop()
            if last.end > now:
                yield Interval(now, last.end, last.what)
                now = last.end
        if around and interval.start > now:
            yield Interval(now, interval.start, around[-1].what)
        now = max(now, interval.start)
        around.append(interval)
    while around:
        last = around.pop()
        if last.end > now:
            yield Interval(now, last.end, last.what)
            now = last.end
