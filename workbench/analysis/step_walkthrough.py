"""Describes one step of a plan as a sequence of moments, without running it: which worker computes which blocks, and what is
communicated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, cast

import pandas as pd

from workbench.analysis.bubble import Worker, replay
from workbench.analysis.expected import placement
from workbench.plan.communication import ExpectedCommunication
from workbench.plan.plan import Plan
from workbench.strategies.base import Caption
from workbench.strategies.pipeline.schedules.action_order import Action, Order

KINDS = {"F": "forward", "B": "backward", "I": "backward_input", "W": "backward_weight"}
_WORDS = {
    "forward": "forward",
    "backward": "backward",
    "backward_input": "input gradients",
    "backward_weight": "weight gradients",
}
_WHOLE = 0.99
"""Smallest fraction of a block that counts as the whole block."""


@dataclass(frozen=True)
class Work:
    """The computation of a worker in a moment."""

    worker: int
    kind: str
    blocks: tuple[str, ...]
    label: str = ""
    """Microbatch, in a pipeline."""

    is_gathered: bool = False
    """Whether the worker has gathered these blocks, of which it holds a part."""


@dataclass(frozen=True)
class Wire:
    """Communication between workers in a moment; a send goes from the first worker to the last."""

    workers: tuple[int, ...]
    text: str
    is_send: bool = False


@dataclass(frozen=True)
class Moment:
    """Computation and communication at the same time."""

    sentence: str
    work: tuple[Work, ...] = ()
    wires: tuple[Wire, ...] = ()


def walk(plan: Plan, order: Order | None = None) -> list[Moment]:
    """Returns the moments of a training step.

    Args:
        plan: plan of the run.
        order: actions of each worker of a pipeline, each of which takes one moment; None without stages.
    """
    begin = Moment(_placement(plan))
    compute = list(_slots(plan, order) if order else _phases(plan))
    return [begin, *compute, *_update(plan)]


def busiest(moments: Sequence[Moment]) -> int:
    """Returns the position of the moment that tells most: the first in which the most workers compute, the most kinds of work go
    on at once, and the most is communicated meanwhile, in this order."""

    def activity(index: int) -> tuple[int, int, int]:
        moment = moments[index]
        return len({w.worker for w in moment.work}), len({w.kind for w in moment.work}), len(moment.wires)

    return max(range(len(moments)), key=activity)


def cells(plan: Plan, moment: Moment) -> pd.DataFrame:
    """Returns the blocks that each worker holds, with its computation in a moment.

    Returns:
        One row per worker and block: the columns of ``expected.placement``, the held part as ``begin`` and ``end`` in [0, 1],
        ``kind`` (``idle`` without computation), ``label``, and ``is_gathered`` (whether the worker has gathered the whole block).
    """
    frame = placement(plan)
    work_of = {(work.worker, block): work for work in moment.work for block in work.blocks}
    works = [work_of.get((worker, block)) for worker, block in zip(frame["worker"], frame["block"], strict=True)]
    begin = frame.groupby("block")["fraction"].transform(lambda parts: (parts.cumsum() - parts).round(6) % 1)
    first = frame.assign(works=[w is not None for w in works]).groupby(["worker", "works"])["number"].transform("min")
    return frame.assign(
        begin=begin.where(frame["fraction"] < 1, 0.0),
        end=lambda f: (f["begin"] + f["fraction"]).clip(upper=1.0),
        kind=[work.kind if work else "idle" for work in works],
        label=[work.label if work and is_first else "" for work, is_first in zip(works, frame["number"] == first, strict=True)],
        is_gathered=[bool(work and work.is_gathered) for work in works],
    )


def wires(moment: Moment) -> pd.DataFrame:
    """Returns one row per wire of a moment: its workers, their lowest and highest rank, its text, and a lane without overlaps."""
    lanes: list[int] = []
    rows = []
    for wire in moment.wires:
        low, high = min(wire.workers), max(wire.workers)
        lane = next((number for number, end in enumerate(lanes) if end < low), len(lanes))
        lanes[lane : lane + 1] = [high]
        rows.append(
            {
                "workers": wire.workers, "first": wire.workers[0], "last": wire.workers[-1], "low": low, "high": high,
                "text": wire.text, "is_send": wire.is_send, "lane": lane,
            }
        )  # fmt: skip
    return pd.DataFrame(rows, columns=["workers", "first", "last", "low", "high", "text", "is_send", "lane"])


def slots(order: Order) -> list[dict[int, Action]]:
    """Returns worker → action at each time, if every action takes one unit of time and starts as early as possible."""
    unit = [Worker(actions, {(a.stage, a.kind): 1.0 for a in actions}, {}, {}, 0.0, 0.0, 0.0, 0.0) for actions in order]
    times: dict[int, dict[int, Action]] = {}
    for replayed in replay(unit, num_steps=1):
        times.setdefault(round(replayed.start), {})[replayed.worker] = replayed.action
    return [times[time] for time in sorted(times)]


def _placement(plan: Plan) -> str:
    frame, num_blocks = placement(plan), len(plan.full_model.blocks)
    is_part = frame["fraction"] < _WHOLE
    if frame.groupby("worker")["block"].nunique().min() < num_blocks:
        holds = "some of the blocks" + (", and a part of each" if is_part.all() else "")
    elif not is_part.any():
        holds = "the whole model"
    else:
        holds = "a part of every block" if is_part.all() else "a part of some blocks and all of the others"
    batch = plan.spec.train.global_batch_size
    num_local = batch // plan.mesh.num_replicas
    samples = f"all {batch} samples of the step" if num_local == batch else f"{num_local} of the step's {batch} samples"
    cut = ", a part of each sequence" if "context" in plan.mesh.axes else ""
    return f"Every worker holds {holds} and processes {samples}{cut}."


def _phases(plan: Plan) -> Iterator[Moment]:
    """Yields forward and backward of all workers at once. Communication that precedes a phase comes before it, other after it."""
    gathered = False
    for phase in ("forward", "backward"):
        before: list[Moment] = []
        after: list[Moment] = []
        for communication in _merged(plan, phase):
            is_before = _caption(plan, communication).precedes_compute
            gathered |= is_before
            (before if is_before else after).append(_communicates(plan, communication))
        yield from before
        held = ((rank, tuple(b.name for b in plan.local_model(rank).blocks)) for rank in range(plan.num_workers))
        work = tuple(Work(rank, phase, blocks, is_gathered=gathered) for rank, blocks in held)
        yield Moment(f"All workers run the {phase} pass.", work)
        yield from after


def _slots(plan: Plan, order: Order) -> Iterator[Moment]:
    """Yields one moment per unit of time, then the averaging of gradients over replicas."""
    mesh, strategy = plan.mesh, cast(Any, next(s for s in plan.strategies if s.axis == "pipeline"))
    stages, worker_of = strategy.stages(plan.full_model), strategy.worker_of_stage
    expected = {phase: _merged(plan, phase) for phase in ("forward", "backward")}
    sizes = {phase: next((t for t in merged if t.axis == "pipeline"), None) for phase, merged in expected.items()}
    for number, actions in enumerate(slots(order), start=1):
        work: list[Work] = []
        sent: list[Wire] = []
        for line in mesh.groups("pipeline"):
            for position, action in actions.items():
                work.append(Work(line[position], KINDS[action.kind], stages[action.stage], str(action.microbatch)))
                to = action.stage + (1 if action.kind == "F" else -1)
                communication = sizes["forward" if action.kind == "F" else "backward"]
                if action.kind != "W" and 0 <= to < len(worker_of) and worker_of[to] != position and communication:
                    sent.append(Wire((line[position], line[worker_of[to]]), _size(communication.payload_bytes), is_send=True))
        yield Moment(f"Moment {number}: {_sentence_of(actions)}.", tuple(work), (*_inside(plan, expected, work), *sent))
    for communication in expected["backward"]:
        if set(communication.axis.split("+")) <= set(mesh.replica_axes):
            yield _communicates(plan, communication)


def _inside(plan: Plan, expected: dict[str, list[ExpectedCommunication]], work: Sequence[Work]) -> Iterator[Wire]:
    """Yields the communication among the workers of one stage while they compute."""
    phase_of = {w.worker: "forward" if w.kind == "forward" else "backward" for w in work}
    for phase, merged in expected.items():
        for communication in merged:
            if communication.axis != "pipeline" and not set(communication.axis.split("+")) & set(plan.mesh.replica_axes):
                for wire in _wires(plan, communication, with_text=False):
                    if all(phase_of.get(worker) == phase for worker in wire.workers):
                        yield wire


def _update(plan: Plan) -> Iterator[Moment]:
    blocks = [tuple(b.name for b in plan.placement(r).updated.blocks if b.parameters) for r in range(plan.num_workers)]
    sentence = "The optimizer of each worker updates the parameters that it owns."
    yield Moment(sentence, tuple(Work(rank, "optimizer", names) for rank, names in enumerate(blocks)))
    for communication in _merged(plan, "optimizer"):
        yield _communicates(plan, communication)


def _merged(plan: Plan, phase: str) -> list[ExpectedCommunication]:
    """Returns the expected communication of a phase, merged by operation and axis, with the mean payload of an operation."""
    merged: dict[tuple[str, str], ExpectedCommunication] = {}
    for t in plan.expected_communication:
        if t.phase == phase:
            entry = merged.get((t.operation, t.axis), replace(t, count=0))
            count, total = entry.count + t.count, entry.count * entry.payload_bytes + t.count * t.payload_bytes
            merged[t.operation, t.axis] = replace(entry, count=count, payload_bytes=total // count)
    return list(merged.values())


def _caption(plan: Plan, communication: ExpectedCommunication) -> Caption:
    """Returns the caption by the strategies; of joined axes such as ``data+context``, the first counts."""
    key = (communication.axis.split("+")[0], communication.operation, communication.phase)
    captions = (strategy.captions[key] for strategy in plan.strategies if key in strategy.captions)
    return next(captions, Caption(f"Workers along {communication.axis} communicate."))


def _communicates(plan: Plan, communication: ExpectedCommunication) -> Moment:
    return Moment(_caption(plan, communication).sentence, (), tuple(_wires(plan, communication, with_text=True)))


def _wires(plan: Plan, communication: ExpectedCommunication, with_text: bool) -> Iterator[Wire]:
    name = communication.operation.replace("_", "-")
    groups = list(_groups(plan, communication))
    for group in groups:
        if communication.operation == "send":
            for pair in pairwise([*group, group[0]]):
                yield Wire(
                    pair,
                    f"{communication.count // (len(group) * len(groups))} × {_size(communication.payload_bytes)}",
                    is_send=True,
                )
        else:
            yield Wire(tuple(group), f"{name}{_times(communication)}" if with_text else name)


def _groups(plan: Plan, communication: ExpectedCommunication) -> Iterable[list[int]]:
    """Yields the groups of ranks that communicate with one another."""
    mesh, divided = plan.mesh, {s.name: s.axis for s in plan.strategies if s.divides_axis}
    axes = [axis for name in communication.axis.split("+") if (axis := divided.get(name, name)) in mesh.axes]
    groups = mesh.groups(axes[0]) if len(axes) == 1 and axes[0] in mesh.axes else [list(range(mesh.num_workers))]
    size = communication.group_size if communication.operation != "send" else len(groups[0])
    for group in groups:
        yield from (group[start : start + size] for start in range(0, len(group), size))


def _sentence_of(now: dict[int, Action]) -> str:
    actions = [f"stage {a.stage} {_WORDS[KINDS[a.kind]]} of microbatch {a.microbatch}" for _, a in sorted(now.items())]
    return ", ".join(actions)


def _times(communication: ExpectedCommunication) -> str:
    total = _size(communication.count * communication.payload_bytes)
    text = f" × {communication.count}, {total} in total" if communication.count > 1 else f", {total}"
    return text if communication.every == 1 else f"{text}, every {communication.every} steps"


def _size(value: float) -> str:
    return f"{value / 2**20:.3g} MiB" if value >= 2**20 else f"{value / 2**10:.3g} KiB"
