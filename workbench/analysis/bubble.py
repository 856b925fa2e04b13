"""Divides the idle time of a pipeline by cause: schedule order, imbalance, communication and the rest.

The actions of each worker are replayed in their recorded order with the measured mean times. An action starts as soon as its
worker is free and its dependencies have completed. Three replays give the causes: without communication (the ideal of the
schedule), with equal times in all stages, and with the communication that blocked the workers. For equal stages the ideal is the
textbook's (p − 1)/(m + p − 1) of the time (Huang et al. 2019; Narayanan et al. 2019), with the time of the optimizer included.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from workbench.plan.intervals import Interval, innermost
from workbench.plan.mesh import Mesh
from workbench.strategies.pipeline.schedules.action_order import Action

if TYPE_CHECKING:
    import pandas as pd

from workbench.spec.files import read_table
from workbench.store.directory import RunDirectory, StoredRun

LETTER = {"forward": "F", "backward": "B", "backward_input": "I", "backward_weight": "W"}
_KIND = {letter: kind for kind, letter in LETTER.items()}
NUM_STEPS = 4
"""Number of consecutive steps in a replay. A step starts on a worker when the previous one has ended there, as in a run; the time
per step is steady after a few."""


@dataclass(frozen=True)
class Worker:
    """Times of one worker of a pipeline in a step, in seconds: means over the trace steps."""

    actions: tuple[Action, ...]
    """Actions in the order in which they ran."""

    seconds: Mapping[tuple[int, str], float]
    """(stage, F, B, I or W) → compute time of one such action."""

    sending: Mapping[Action, float]
    """Action → time for which sends blocked the worker between the previous action and this one. The worker may have had to wait
    at this point anyway."""

    blocked: Mapping[Action, float]
    """Action → time for which all other communication blocked the worker, in the action or since the previous one. It delays the
    inputs of the action."""

    blocked_after: float
    """Time for which communication blocked the worker after the last action."""

    rest: float
    """Time of everything else except waiting: optimizer, averaging of gradients, schedule overhead."""

    step: float
    """Duration of the step."""

    idle: float

    @property
    def computing(self) -> float:
        """Compute time of all actions."""
        return sum(self.seconds[a.stage, a.kind] for a in self.actions)


@dataclass(frozen=True)
class ReplayedAction:
    """An action in a replay; times in seconds since the first step started."""

    step: int
    worker: int
    action: Action
    start: float
    end: float


def bubble(run: StoredRun) -> pd.DataFrame:
    """Returns the parts of the idle time of a step: ``part``, ``seconds`` (mean over the workers of the pipeline), ``share`` of
    the step and ``step_s``.

    ``order``, ``imbalance``, ``communication`` and ``rest`` add up to ``measured``. ``ideal`` is order plus imbalance; its share
    is of the ideal step. Empty if the run has no pipeline or no trace step.
    """
    run = run.directory
    import pandas as pd

    means = mean_of(pipelines(run).values())
    rows = []
    for name, seconds in means.items():
        if name not in ("measured step", "ideal step"):
            step = means["ideal step" if name == "ideal" else "measured step"]
            rows.append({"part": name, "seconds": seconds, "share": seconds / step, "step_s": step})
    return pd.DataFrame(rows, columns=["part", "seconds", "share", "step_s"])


def mean_of(pipelines: Iterable[list[Worker]]) -> dict[str, float]:
    """Returns the mean of ``bubble_of`` over pipelines that run side by side; empty without pipelines."""
    parts = [bubble_of(workers) for workers in pipelines]
    return {name: fmean(part[name] for part in parts) for name in (parts[0] if parts else ())}


def ideal_timeline(run: StoredRun) -> pd.DataFrame:
    """Returns the timeline of one step at the ideal of the schedule; columns as ``trace.timeline``."""
    run = run.directory
    import pandas as pd

    columns = ["kind", "stage", "microbatch", "worker", "begin_ms", "end_ms"]
    rows: list[dict[str, Any]] = []
    for ranks, workers in pipelines(run).items():
        for p in replay(workers, 1):
            kind, times = _KIND[p.action.kind], (p.start * 1e3, p.end * 1e3)
            place = (p.action.stage, p.action.microbatch, str(ranks[p.worker]))
            rows.append(dict(zip(columns, (kind, *place, *times), strict=True)))
    return pd.DataFrame(rows, columns=columns)


def bubble_of(workers: list[Worker]) -> dict[str, float]:
    """Returns the parts of ``bubble``, the measured step and the ideal step of one pipeline, in seconds: means over its
    workers."""
    busy = fmean(w.computing + w.rest for w in workers)
    blocked = fmean(sum(w.sending.values()) + sum(w.blocked.values()) + w.blocked_after for w in workers)
    measured = fmean(w.idle for w in workers)
    ideal = step_of(workers) - busy
    order = step_of(equal(workers)) - busy
    with_communication = step_of(workers, with_communication=True) - busy - blocked
    return {
        "measured step": fmean(w.step for w in workers),
        "ideal step": busy + ideal,
        "order": order,
        "imbalance": ideal - order,
        "ideal": ideal,
        "communication": with_communication - ideal,
        "rest": measured - with_communication,
        "measured": measured,
    }


def equal(workers: list[Worker]) -> list[Worker]:
    """Returns the workers with the same total work, but equal times in all stages and on all workers."""
    totals: dict[str, list[float]] = defaultdict(list)
    for worker in workers:
        for action in worker.actions:
            totals[action.kind].append(worker.seconds[action.stage, action.kind])
    mean, rest = {kind: fmean(values) for kind, values in totals.items()}, fmean(w.rest for w in workers)
    return [replace(w, seconds={key: mean[key[1]] for key in w.seconds}, rest=rest) for w in workers]


def step_of(workers: list[Worker], with_communication: bool = False) -> float:
    """Returns the seconds between the ends of two consecutive steps of a replay."""
    replayed = replay(workers, NUM_STEPS, with_communication)
    first, second = (
        max(_after(workers[p.worker], p.end, with_communication) for p in replayed if p.step == step)
        for step in (NUM_STEPS - 2, NUM_STEPS - 1)
    )
    return second - first


def _after(worker: Worker, last_action: float, with_communication: bool) -> float:
    """Returns when the worker's step ends."""
    return last_action + worker.rest + (worker.blocked_after if with_communication else 0.0)


def replay(workers: list[Worker], num_steps: int, with_communication: bool = False) -> list[ReplayedAction]:
    """Replays the actions of each worker in their order, each as early as possible. Communication, if included, lies between the
    dependencies of an action and the action itself; sends come before the wait for the dependencies.

    Raises:
        ValueError: the order deadlocks.
    """
    actions = {action for worker in workers for action in worker.actions}
    last_stage = max(action.stage for action in actions)
    end_of: dict[tuple[int, Action], float] = {}
    free = [0.0] * len(workers)
    rest = [[(step, a) for step in range(num_steps) for a in w.actions][::-1] for w in workers]
    replayed: list[ReplayedAction] = []

    def ready(step: int, action: Action) -> float | None:
        """Returns when all dependencies of an action have completed, or None if that is not yet determined."""
        latest = 0.0
        for group in action.waits_for(last_stage):
            dependencies = [(step, other) for other in group if other in actions]
            ends = [end_of[key] for key in dependencies if key in end_of]
            if dependencies and not ends:
                return None
            latest = max(latest, *ends, 0.0)
        return latest

    while any(rest):
        num_before = len(replayed)
        for index, worker in enumerate(workers):
            while rest[index] and (ready_at := ready(*rest[index][-1])) is not None:
                step, action = rest[index].pop()
                sending, blocked = (of.get(action, 0.0) * with_communication for of in (worker.sending, worker.blocked))
                start = max(free[index] + sending, ready_at) + blocked
                end = start + worker.seconds[action.stage, action.kind]
                end_of[step, action] = free[index] = end
                replayed.append(ReplayedAction(step, index, action, start, end))
                if action == worker.actions[-1]:
                    free[index] = _after(worker, end, with_communication)
        if len(replayed) == num_before:
            raise ValueError(f"the order cannot go on before {', '.join(str(r[-1][1]) for r in rest if r)}")
    return replayed


def pipelines(run: StoredRun) -> dict[tuple[int, ...], list[Worker]]:
    """Returns the workers of each pipeline by their ranks, first stage to last, with their measured times."""
    run = run.directory
    mesh = Mesh(run.record().mesh)
    if "pipeline" not in mesh.axes or _generates(run):
        return {}
    timeline = run.table("timeline").to_pylist()
    steps = [row for row in run.table("steps").to_pylist() if row["kind"] == "trace"]
    workers_by_ranks = {}
    for ranks in mesh.groups("pipeline"):
        workers = [worker_of([r for r in timeline if r["rank"] == i], [s for s in steps if s["rank"] == i]) for i in ranks]
        if all(worker.actions for worker in workers):
            workers_by_ranks[tuple(ranks)] = workers
    return workers_by_ranks


def _generates(run: RunDirectory) -> bool:
    """Whether the run generates tokens: it then repeats each action for every token, and no order has each action once."""
    spec = read_table(run.spec_path)
    return spec.get("mode") == "inference" and spec.get("inference", {}).get("num_new_tokens", 0) > 0


def worker_of(timeline: list[dict[str, Any]], steps: list[dict[str, Any]]) -> Worker:
    """Returns the mean times of one worker, from its rows of ``timeline`` and its trace steps."""
    order: list[Action] = []
    seconds: dict[tuple[int, str], list[float]] = defaultdict(list)
    sending: dict[Action, float] = defaultdict(float)
    blocked: dict[Action, float] = defaultdict(float)
    idle = rest = after = 0.0
    for number, step in enumerate(steps):
        computing: dict[Action, float] = defaultdict(float)
        sending_s = blocked_s = 0.0
        rows = [row for row in timeline if row["step"] == step["step"]]
        for piece in innermost(Interval(row["start_s"], row["end_s"], row) for row in rows):
            kind = piece.what["kind"]
            if kind == "idle":
                idle += piece.length
            elif kind == "communication" and piece.what["name"] == "send":
                sending_s += piece.length
            elif kind == "communication":
                blocked_s += piece.length
            elif kind in LETTER and piece.what["microbatch"] is not None:
                action = Action(piece.what["stage"], LETTER[kind], piece.what["microbatch"])
                computing[action] += piece.length
                sending[action] += sending_s / len(steps)
                blocked[action] += blocked_s / len(steps)
                sending_s = blocked_s = 0.0
        after += sending_s + blocked_s
        order = list(computing) if number == 0 else order
        for action, time_s in computing.items():
            seconds[action.stage, action.kind].append(time_s)
        rest += step["duration_s"] - sum(computing.values()) - sum(p.length for p in innermost(_waits(rows)))
    count = max(1, len(steps))
    means = {key: fmean(values) for key, values in seconds.items()}
    step_s = fmean(s["duration_s"] for s in steps) if steps else 0.0
    return Worker(tuple(order), means, dict(sending), dict(blocked), after / count, rest / count, step_s, idle / count)


def _waits(rows: list[dict[str, Any]]) -> list[Interval[str]]:
    return [Interval(r["start_s"], r["end_s"], r["kind"]) for r in rows if r["kind"] in ("idle", "communication")]
