"""Reads an order of actions from rows of text, and checks that it is complete and free of deadlocks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from workbench.errors import SplitError

FIELD = "split.pipeline.schedule_file"
_FORM = re.compile(r"(\d{1,6})([FBIW])(\d{1,6})")


class Action(NamedTuple):
    """An action of a worker: a pass of one microbatch through one of its stages."""

    stage: int
    kind: str
    """F forward, B full backward, I backward of inputs, W backward of weights."""

    microbatch: int

    def __str__(self) -> str:
        return f"{self.stage}{self.kind}{self.microbatch}"

    def waits_for(self, last_stage: int) -> Iterator[tuple[Action, ...]]:
        """Yields its dependencies, as groups of actions of which any one suffices."""
        stage, kind, microbatch = self
        if kind == "F":
            if stage > 0:
                yield (Action(stage - 1, "F", microbatch),)
        elif kind == "W":
            yield (Action(stage, "I", microbatch),)
        else:
            yield (Action(stage, "F", microbatch),)
            if stage < last_stage:
                yield Action(stage + 1, "B", microbatch), Action(stage + 1, "I", microbatch)


Order = tuple[tuple[Action, ...], ...]
"""Actions of each worker, first to last."""


def read(rows: Sequence[str]) -> Order:
    """Reads the order from rows such as ``0F0,0F1,,0B0,0B1``, one per worker; an empty cell is a wait.

    Raises:
        SplitError: a cell is not an action.
    """
    return tuple(tuple(_cells(worker, row)) for worker, row in enumerate(rows))


def _cells(worker: int, row: str) -> Iterator[Action]:
    for number, cell in enumerate(map(str.strip, row.split(",")), start=1):
        match = _FORM.fullmatch(cell)
        if match:
            yield Action(int(match[1]), match[2], int(match[3]))
        elif cell:
            raise SplitError(
                FIELD,
                f"cell {number} of worker {worker} is {cell!r}, which is not an action; use stage, F (forward), B (backward), I"
                " (backward of inputs) or W (backward of weights) and microbatch, such as 0F0, or an empty cell to wait",
            )


def check(order: Order, num_workers: int, num_microbatches: int) -> None:
    """Checks an order.

    Raises:
        SplitError: the order is incomplete or deadlocks; the message includes the worker, the action and the reason.
    """
    if len(order) != num_workers:
        raise SplitError(FIELD, f"has {len(order)} rows, but there are {num_workers} workers; use one row per worker")
    holder: dict[int, tuple[int, Action]] = {}
    actions_seen: set[Action] = set()
    for worker, actions in enumerate(order):
        if not actions:
            raise SplitError(FIELD, f"has no actions for worker {worker}, but every worker needs a stage")
        for action in actions:
            other, first = holder.setdefault(action.stage, (worker, action))
            if other != worker:
                raise SplitError(
                    FIELD,
                    f"stage {action.stage} is on worker {other} ({first}) and on worker {worker} ({action}); use one of them",
                )
            if action.microbatch >= num_microbatches:
                raise SplitError(
                    FIELD,
                    f"{action} of worker {worker} has microbatch {action.microbatch}, but num_microbatches = {num_microbatches};"
                    f" use 0 to {num_microbatches - 1}",
                )
            if action in actions_seen:
                raise SplitError(FIELD, f"{action} occurs twice in the row of worker {worker}")
            actions_seen.add(action)
    if left_out := set(range(max(holder))) - set(holder):
        raise SplitError(
            FIELD, f"has stage {max(holder)}, but no worker has stage {min(left_out)}; number stages from 0 without gaps"
        )
    for stage in sorted(holder):
        for microbatch in range(num_microbatches):
            _check_complete(actions_seen, holder[stage][0], stage, microbatch)
    _check_order(order, max(holder))
    last = [a.microbatch for a in order[holder[max(holder)][0]] if (a.stage, a.kind) == (max(holder), "F")]
    if last != sorted(last):
        raise SplitError(
            FIELD,
            f"the forward passes of the last stage, {max(holder)}, run in the order {', '.join(map(str, last))}, but torch"
            " requires ascending microbatches there",
        )


def _check_complete(actions: set[Action], worker: int, stage: int, microbatch: int) -> None:
    kinds = {kind for kind in "FBIW" if Action(stage, kind, microbatch) in actions}
    if kinds in ({"F", "B"}, {"F", "I", "W"}):
        return
    kinds_text = " and ".join(str(Action(stage, kind, microbatch)) for kind in "FBIW" if kind in kinds) or "nothing"
    f, b, i, w = (Action(stage, kind, microbatch) for kind in "FBIW")
    raise SplitError(
        FIELD, f"worker {worker} has {kinds_text} of stage {stage} and microbatch {microbatch}; use {f}, and {b} or {i} and {w}"
    )


def _check_order(order: Order, last_stage: int) -> None:
    """Runs the actions of each worker in order as soon as their dependencies are complete, until no worker progresses."""
    all_actions, completed = {action for actions in order for action in actions}, set[Action]()
    rest = [list(reversed(actions)) for actions in order]

    def unmet(action: Action) -> list[Action]:
        groups = [set(group) & all_actions for group in action.waits_for(last_stage)]
        return [min(group) for group in groups if not group & completed]

    progressed = True
    while progressed:
        progressed = False
        for actions in rest:
            while actions and not unmet(actions[-1]):
                completed.add(actions.pop())
                progressed = True
    waits = [(worker, actions[-1], unmet(actions[-1])[0]) for worker, actions in enumerate(rest) if actions]
    if not waits:
        return
    for worker, action, missing in waits:
        if missing in order[worker]:
            raise SplitError(
                FIELD, f"worker {worker} can never run {action}: it waits for {missing}, which comes later in the same row"
            )
    (worker, action, missing), *others = waits
    others_text = ", ".join(f"worker {other} waits for {dependency} before {blocked}" for other, blocked, dependency in others)
    raise SplitError(FIELD, f"worker {worker} can never run {action}: it waits for {missing}, while {others_text}")
