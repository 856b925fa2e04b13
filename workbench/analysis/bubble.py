"""The bubble of a pipeline: how long its workers wait for one another, beside what the schedule's order makes inevitable.

The order that each worker ran its actions in is played again, each action as soon as its worker is free and what it waits for
is done, with the mean times that were measured: without communication, which gives the schedule's ideal; with the same times
in every stage; and with the communication that workers were blocked by. So the measured idle time falls apart into what the
order costs even between equal stages, imbalance, communication, and the rest. For equal stages the ideal is the textbook's
(p − 1)/(m + p − 1) of the time (Huang et al. 2019; Narayanan et al. 2019), here with the optimizer's time in it.
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
"""Steps that are played one after the other: the next begins on a worker when it has ended there, as in a run, and after a
few the time from one end to the next is steady."""


@dataclass(frozen=True)
class Worker:
    """What one worker of a pipeline did in a step, means over the trace steps, in seconds."""

    actions: tuple[Action, ...]
    """In their order."""

    seconds: Mapping[tuple[int, str], float]
    """Of (stage, F, B, I or W): how long one such action computes."""

    sending: Mapping[Action, float]
    """How long sends of what came before blocked the worker between the action before and it: time that the worker may
    have had to wait anyway."""

    blocked: Mapping[Action, float]
    """How long all other communication blocked it, in it or since the action before: what it takes arrives late by that."""

    blocked_after: float
    """And after the last."""

    rest: float
    """What else it did in a step, not waiting: optimizer, averaging of gradients, the schedule's own work."""

    step: float
    """The whole step."""

    idle: float

    @property
    def computing(self) -> float:
        """Of all actions."""
        return sum(self.seconds[a.stage, a.kind] for a in self.actions)


@dataclass(frozen=True)
class ReplayedAction:
    """An action as it would have run, in seconds since the first step began."""

    step: int
    worker: int
    action: Action
    start: float
    end: float


def bubble(run: StoredRun) -> pd.DataFrame:
    """Parts of the idle time of a step, in seconds (mean over the pipeline's workers) and as a share of their time:
    ``order``, ``imbalance``, ``communication`` and ``rest`` make ``measured``; ``ideal`` is order and imbalance, of the ideal
    step ``ideal step``. Empty where the run has no pipeline or nothing was traced."""
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
    """``bubble_of`` of several pipelines that work side by side; empty of none."""
    parts = [bubble_of(workers) for workers in pipelines]
    return {name: fmean(part[name] for part in parts) for name in (parts[0] if parts else ())}


def ideal_timeline(run: StoredRun) -> pd.DataFrame:
    """What each worker would have done when, at the schedule's ideal; columns as ``frames.timeline``."""
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
    """Seconds of a step, means over the workers of one pipeline: the parts of ``bubble`` and both steps."""
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
    """The same work in all with every stage's actions, and what else workers do, taking equally long."""
    totals: dict[str, list[float]] = defaultdict(list)
    for worker in workers:
        for action in worker.actions:
            totals[action.kind].append(worker.seconds[action.stage, action.kind])
    mean, rest = {kind: fmean(values) for kind, values in totals.items()}, fmean(w.rest for w in workers)
    return [replace(w, seconds={key: mean[key[1]] for key in w.seconds}, rest=rest) for w in workers]


def step_of(workers: list[Worker], with_communication: bool = False) -> float:
    """Seconds from the end of one step to the end of the next."""
    replayed = replay(workers, NUM_STEPS, with_communication)
    first, second = (
        max(_after(workers[p.worker], p.end, with_communication) for p in replayed if p.step == step)
        for step in (NUM_STEPS - 2, NUM_STEPS - 1)
    )
    return second - first


def _after(worker: Worker, last_action: float, with_communication: bool) -> float:
    """When the worker's step ends."""
    return last_action + worker.rest + (worker.blocked_after if with_communication else 0.0)


def replay(workers: list[Worker], num_steps: int, with_communication: bool = False) -> list[ReplayedAction]:
    """Each worker's actions in their order, each as soon as it can. Communication, if any, comes between what the action
    waited for and the action, sending before that.

    Raises:
        ValueError: the order cannot run to its end.
    """
    actions = {action for worker in workers for action in worker.actions}
    last_stage = max(action.stage for action in actions)
    end_of: dict[tuple[int, Action], float] = {}
    free = [0.0] * len(workers)
    rest = [[(step, a) for step in range(num_steps) for a in w.actions][::-1] for w in workers]
    replayed: list[ReplayedAction] = []

    def ready(step: int, action: Action) -> float | None:
        """When all that it waits for is done; None: not yet known."""
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
    """Each pipeline's workers by their ranks, first to last, as they were measured."""
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
    """Whether the run comes by the same microbatch token after token, so that no order has each action once."""
    spec = read_table(run.spec_path)
    return spec.get("mode") == "inference" and spec.get("inference", {}).get("num_new_tokens", 0) > 0


def worker_of(timeline: list[dict[str, Any]], steps: list[dict[str, Any]]) -> Worker:
    """One worker's means from its rows of ``timeline`` and of its trace steps."""
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
