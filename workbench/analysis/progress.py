"""Follows the progress of a run through the events of its workers."""

from __future__ import annotations

import functools
import math
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from workbench.analysis.parity import event_text
from workbench.errors import SpecError
from workbench.store.directory import StoredRun
from workbench.store.events import Event, ParityEvent, StepEvent
from workbench.store.state import state_of

_RECENT = 10
"""Number of recent steps that a rate is averaged over."""
_MOST_SAMPLES = 2000
"""Measurements of memory that are kept, the latest."""
_MOST_POINTS = 500

_Point = TypeVar("_Point")


def thinned(points: Sequence[_Point]) -> list[_Point]:
    """Returns at most 500 of the points, evenly chosen and with the last, so that a long run is drawn quickly."""
    stride = max(1, math.ceil(len(points) / _MOST_POINTS))
    return list(points[::-stride][::-1])


@dataclass
class Follower:
    """Events of a run's workers so far; ``read_new`` continues where it stopped."""

    run: StoredRun
    events: dict[int, list[Event]] = field(default_factory=dict)
    memory: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_MOST_SAMPLES))
    """Name of a worker, ``time_s`` since the first event and private memory in MiB, at each call of ``workers`` while it ran."""
    _offsets: Counter[int] = field(default_factory=Counter)

    def read_new(self) -> bool:
        """Reads new events. Returns whether more may follow."""
        run = self.run.directory
        is_live = not state_of(run).is_terminal  # read before the events, so that none written in between is missed
        for rank in range(run.record().num_workers):
            new, self._offsets[rank] = run.events(rank, self._offsets[rank])
            self.events.setdefault(rank, []).extend(new)
        return is_live

    @property
    def progress(self) -> tuple[int, int] | None:
        """Completed steps and total steps; None before the first step."""
        last = [steps[-1] for rank in self.events if (steps := self._steps(rank))]
        return min((e.step + 1, e.num_steps) for e in last) if last else None

    @property
    def remaining_s(self) -> float | None:
        """Seconds until the last step, at the rate of the latest steps of the slowest worker; None before its second step."""
        estimates = []
        for rank in self.events:
            recent = self._steps(rank)[-_RECENT:]
            if len(recent) < 2:
                return None
            per_step_s = (recent[-1].time - recent[0].time) / (len(recent) - 1)
            estimates.append((recent[-1].num_steps - recent[-1].step - 1) * per_step_s)
        return max(estimates, default=None)

    @property
    def activity(self) -> str:
        """What worker 0 does: ``checking parity``, ``timed steps``."""
        return _activity(self.events.get(0, []), not state_of(self.run.directory).is_terminal)

    @property
    def losses(self) -> list[dict[str, Any]]:
        """Step and loss from the worker that has most of them; each loss is that of its part of the batch."""
        of = [[{"step": e.step, "loss": e.loss} for e in self._steps(r) if e.loss is not None] for r in self.events]
        return max(of, key=len, default=[])

    @property
    def step_times(self) -> list[dict[str, Any]]:
        """Step, its kind and the milliseconds of its slowest worker."""
        slowest: dict[int, StepEvent] = {}
        for rank in self.events:
            for event in self._steps(rank):
                if event.step not in slowest or event.duration_s > slowest[event.step].duration_s:
                    slowest[event.step] = event
        return [{"step": e.step, "kind": e.kind, "step_ms": e.duration_s * 1e3} for _, e in sorted(slowest.items())]

    @property
    def elapsed_s(self) -> float:
        """Seconds since the first event of rank 0; 0 before."""
        return time.time() - first[0].time if (first := self.events.get(0)) else 0.0

    @property
    def parity(self) -> str:
        """Verdict of the parity check; empty before it has run."""
        event = next((e for e in self.events.get(0, []) if isinstance(e, ParityEvent)), None)
        if event is None:
            return ""
        return event_text(event)

    def workers(self) -> list[dict[str, Any]]:
        """Returns one row per worker: rank, device, activity, step and its time, samples per second, and current private
        memory."""
        status = self.run.directory.status()
        processes = {worker.rank: worker for worker in status.workers}
        samples = self._samples
        is_live = not status.state.is_terminal
        rows = []
        for rank, events in sorted(self.events.items()):
            steps = self._steps(rank)
            mean = sum(e.duration_s for e in steps[-_RECENT:]) / len(steps[-_RECENT:]) if steps else None
            process = processes.get(rank)
            memory_mib = _private_memory_mib(process.pid) if process and is_live else None
            if memory_mib is not None:
                self.memory.append({"worker": f"worker {rank}", "time_s": self.elapsed_s, "memory_mib": memory_mib})
            rows.append(
                {
                    "worker": rank,
                    "device": process.device if process else "–",
                    "state": _activity(events, is_live),
                    "step": steps[-1].step + 1 if steps else None,
                    "step_ms": mean * 1e3 if mean else None,
                    "samples_per_s": samples / mean if mean and samples else None,
                    "memory_mib": memory_mib,
                }
            )
        return rows

    def _steps(self, rank: int) -> list[StepEvent]:
        return [event for event in self.events.get(rank, []) if isinstance(event, StepEvent)]

    @functools.cached_property
    def _samples(self) -> int | None:
        """Samples per step that a worker processes."""
        try:
            return self.run.directory.spec().samples_per_replica
        except SpecError:
            return None


def _activity(events: list[Event], is_live: bool) -> str:
    last = events[-1] if events else None
    if last is None:
        return "starting" if is_live else "not started"
    names = {"ready": "checking parity", "parity": "preparing", "finished": "finished", "error": "failed"}
    if not isinstance(last, StepEvent):
        return names[last.event] if is_live or last.event in ("finished", "error") else "stopped"
    return f"{last.kind} steps" if is_live else "stopped"


def _private_memory_mib(pid: int) -> float | None:
    """Returns the private memory of a process in MiB, without pages shared between forked workers (mainly torch)."""
    import psutil

    try:
        return float(psutil.Process(pid).memory_full_info().uss) / 2**20
    except psutil.Error:
        return None
