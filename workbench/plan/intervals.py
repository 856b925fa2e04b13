"""Intervals of time that lie inside one another or apart, and what was going on innermost at each moment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Interval(NamedTuple, Generic[T]):
    """From ``start`` to ``end``, in seconds of any one clock, something went on."""

    start: float
    end: float
    what: T

    @property
    def length(self) -> float:
        """In seconds."""
        return self.end - self.start


def innermost(intervals: Iterable[Interval[T]]) -> Iterator[Interval[T]]:
    """The same time cut into pieces that do not overlap, in order: each moment belongs to the interval that began last of
    those that it lies in. Where two overlap in part, the later takes over until it ends."""
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
