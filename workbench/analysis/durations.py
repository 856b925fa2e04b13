"""How long runs took from the start of their workers to their end, and how long others are therefore expected to take."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from workbench.errors import WorkbenchError
from workbench.spec.run_spec import RunSpec
from workbench.store.directory import StoredRun


def _duration_s(run: StoredRun) -> float | None:
    events, _ = run.directory.events(0)
    ended = run.directory.status().heartbeat
    return ended - events[0].time if events and ended is not None else None


@dataclass
class Durations:
    """Expected durations by the ended runs of a store. Each run is read once."""

    _keys: dict[str, tuple[str, str] | None] = field(default_factory=dict)
    _durations: dict[str, float | None] = field(default_factory=dict)

    def expected_s(self, of: StoredRun | RunSpec, ended: Iterable[StoredRun]) -> float | None:
        """Returns the median duration of the runs of the same spec; without any, of those with the same model, data and options
        of training and measurement, however split and linked; None if there are none either.

        Args:
            of: The run, or the spec of one that is not submitted yet.
            ended: Finished runs.
        """
        if (key := _keys(of.as_dict()) if isinstance(of, RunSpec) else self._key(of)) is None:
            return None
        alike = [(other, k) for other in ended if (k := self._key(other)) is not None]
        for part in range(len(key)):
            runs = [other for other, k in alike if k[part] == key[part]]
            durations = [duration for other in runs if (duration := self._duration(other)) is not None]
            if durations:
                return median(durations)
        return None

    def _duration(self, run: StoredRun) -> float | None:
        if run.id not in self._durations:
            self._durations[run.id] = _duration_s(run)
        return self._durations[run.id]

    def _key(self, run: StoredRun) -> tuple[str, str] | None:
        """Returns as of ``_keys``; None if the spec cannot be read."""
        if run.id not in self._keys:
            try:
                self._keys[run.id] = _keys(run.directory.spec().as_dict())
            except WorkbenchError:
                self._keys[run.id] = None
        return self._keys[run.id]


def _keys(spec: dict[str, Any]) -> tuple[str, str]:
    """Returns what a spec has in common with those of the same duration, and with those that differ only in how they are split
    and run. More than ``work`` is compared: the number of steps, for one, is no work of a step, but part of the duration."""
    work = {part: value for part, value in spec.items() if part not in ("name", "baseline", "split", "link", "launch", "files")}
    if isinstance(model := work.get("model"), dict):
        work["model"] = {key: value for key, value in model.items() if key != "folder"}
    how = [spec.get("split"), spec.get("link"), spec["launch"]["threads_per_worker"]]
    return json.dumps([work, how], sort_keys=True, default=str), json.dumps(work, sort_keys=True, default=str)
