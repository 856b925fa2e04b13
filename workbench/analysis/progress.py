"""A run that is going on: what its workers have said so far."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from workbench.analysis.parity import event_text
from workbench.errors import SpecError
from workbench.store import listing
from workbench.store.directory import StoredRun
from workbench.store.events import Event, ParityEvent, StepEvent

_RECENT = 10
"""Steps over whose mean a rate is taken."""


@dataclass
class Follower:
    """What a run's workers have said so far; reads on where it left off."""

    run: StoredRun
    events: dict[int, list[Event]] = field(default_factory=dict)
    _offsets: Counter[int] = field(default_factory=Counter)

    def read_new(self) -> bool:
        """Takes in what is new; whether more may come."""
        run = self.run.directory
        is_live = not listing.state_of(run).is_terminal  # asked first, lest what is said between be missed at the end
        for rank in range(run.record().num_workers):
            new, self._offsets[rank] = run.events(rank, self._offsets[rank])
            self.events.setdefault(rank, []).extend(new)
        return is_live

    @property
    def progress(self) -> tuple[int, int] | None:
        """Steps done and steps in all; None before the first."""
        last = [steps[-1] for rank in self.events if (steps := self._steps(rank))]
        return min((e.step + 1, e.num_steps) for e in last) if last else None

    @property
    def losses(self) -> list[dict[str, Any]]:
        """Step and loss, as the worker says that has both; each is of its part of the batch."""
        of = [[{"step": e.step, "loss": e.loss} for e in self._steps(r) if e.loss is not None] for r in self.events]
        return max(of, key=len, default=[])

    @property
    def parity(self) -> str:
        """Whether the split computes what one worker computes, once that was checked."""
        event = next((e for e in self.events.get(0, []) if isinstance(e, ParityEvent)), None)
        if event is None:
            return ""
        return event_text(event)

    def workers(self) -> list[dict[str, Any]]:
        """A row a worker: rank, device, what it does, step and its time, samples/s, and its own memory now."""
        status = self.run.directory.status()
        processes = {worker.rank: worker for worker in status.workers}
        samples = self._samples()
        is_live = not status.state.is_terminal
        rows = []
        for rank, events in sorted(self.events.items()):
            steps = self._steps(rank)
            mean = sum(e.duration_s for e in steps[-_RECENT:]) / len(steps[-_RECENT:]) if steps else None
            process = processes.get(rank)
            rows.append(
                {
                    "worker": rank,
                    "device": process.device if process else "–",
                    "state": _activity(events, is_live),
                    "step": steps[-1].step + 1 if steps else None,
                    "step_ms": mean * 1e3 if mean else None,
                    "samples_per_s": samples / mean if mean and samples else None,
                    "memory_mib": _private_memory_mib(process.pid) if process and is_live else None,
                }
            )
        return rows

    def _steps(self, rank: int) -> list[StepEvent]:
        return [event for event in self.events.get(rank, []) if isinstance(event, StepEvent)]

    def _samples(self) -> int | None:
        """Samples of a step that pass through a worker."""
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
        return names[last.event]
    return f"{last.kind} steps" if is_live else "stopped"


def _private_memory_mib(pid: int) -> float | None:
    """Memory of a process alone, in MiB; pages that forked workers share, torch above all, are not counted."""
    import psutil

    try:
        return float(psutil.Process(pid).memory_full_info().uss) / 2**20
    except psutil.Error:
        return None
