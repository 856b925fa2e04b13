"""The progress of a run in one line, and what is left of it when the run has ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from workbench.analysis.formatting import duration, rough_duration
from workbench.analysis.progress import Follower
from workbench.messages import counted
from workbench.store.run_status import RunState
from workbench.store.state import status_of


@dataclass(frozen=True)
class EndedRun:
    """A run that a cell waited for, until it had ended or the wait was given up."""

    id: str
    name: str
    state: RunState | None
    """None if it cannot be read."""
    waited_s: float


def progress_line(follower: Follower) -> str:
    """Returns the state of a run and what it waits for, or its step and the remaining time: ``running, timed steps · step 5 of
    14 · about 3 s left``."""
    status = status_of(follower.run.directory)
    if status.state.is_terminal:
        return status.state.value
    if not any(follower.events.values()):
        return status.state.value + (f" · {status.message}" if status.message else "")
    parts = [f"{status.state.value}, {follower.activity}"]
    if follower.progress:
        parts.append("step {} of {}".format(*follower.progress))
    if (left_s := follower.remaining_s) is not None:
        parts.append(f"{rough_duration(left_s)} left")
    return " · ".join(parts)


def ended_line(runs: Sequence[EndedRun]) -> str:
    """Returns what became of the runs that a cell waited for, and how long it waited: ``dp2 finished after 12 s``."""
    waited = duration(sum(run.waited_s for run in runs))
    if len(runs) == 1:
        return f"{_became(runs[0])} after {waited}"
    finished = Counter(run.name for run in runs if run.state is RunState.FINISHED)
    names = ", ".join(name + (f" × {count}" if count > 1 else "") for name, count in finished.items())
    others = "".join(f"; {_became(run)}" for run in runs if run.state is not RunState.FINISHED)
    share = f"{finished.total()} of {counted(len(runs), 'run')}" if others else counted(len(runs), "run")
    return f"{share} finished after {waited}" + (f": {names}" if names else "") + others


def _became(run: EndedRun) -> str:
    if run.state is None:
        return f"{run.name} cannot be read"
    return f"{run.name} {run.state if run.state.is_terminal else 'not ended'}"
