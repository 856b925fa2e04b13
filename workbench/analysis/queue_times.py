"""When the entries of a queue start and end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class QueueTimes:
    """When the entries of a queue start and end, in seconds from now; None if that is unknown."""

    starts_in_s: dict[str, float | None]
    ends_in_s: dict[str, float | None]

    @classmethod
    def of(cls, queue: Iterable[tuple[str, frozenset[str], float | None]]) -> QueueTimes:
        """Computes the times.

        Args:
            queue: Of each entry, in the order of execution, its id, its devices and the seconds that it takes from its start or,
                if it runs, still.
        """
        starts: dict[str, float | None] = {}
        ends: dict[str, float | None] = {}
        free_in: dict[str, float | None] = {}
        for name, devices, duration_s in queue:
            starts[name] = _latest(free_in.get(device, 0.0) for device in devices)
            ends[name] = None if (start := starts[name]) is None or duration_s is None else start + duration_s
            free_in |= dict.fromkeys(devices, ends[name])
        return cls(starts, ends)

    def end_in_s(self, names: Iterable[str]) -> float | None:
        """Returns when the last of these entries ends."""
        return _latest(self.ends_in_s.get(name) for name in names)


def _latest(times: Iterable[float | None]) -> float | None:
    known = list(times)
    return None if None in known else max((time for time in known if time is not None), default=0.0)
