"""Prints the actions of torch's schedules, one row per worker, in the format of the schedule `csv`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from workbench.strategies.pipeline.schedules.base import Schedule


def rows_of(schedule: Schedule) -> list[str]:
    """Returns one row per worker; an empty cell is a wait."""
    from torch import nn

    from workbench.torch_private.pipelining import order_of

    # What torch's constructors need from a stage to create the order of all workers, without process group or computation.
    stage = {"num_stages": schedule.num_stages, "group_size": schedule.num_workers, "group_rank": 0, "submod": nn.Module()}
    stages: list[Any] = [SimpleNamespace(**stage) for _ in range(schedule.num_stages // schedule.num_workers)]
    built = schedule.build(stages, lambda outputs, targets: None)
    order = order_of(built)
    return [",".join(_cells(order[worker])) for worker in range(schedule.num_workers)]


def _cells(actions: Sequence[Any]) -> Iterator[str]:
    """Yields the computations in order, those that torch overlaps one after the other."""
    forwards: Counter[int] = Counter()
    for action in actions:
        if action is None:
            yield ""
            continue
        for part in action.sub_actions or (action,):
            stage, kind, microbatch = part.stage_index, part.computation_type.value, part.microbatch_index
            if kind == "F":
                # The record of 1F1B (torch 2.13, not its step) counts the last stage's microbatches from 1; they run from 0.
                microbatch = forwards[stage]
                forwards[stage] += 1
            if kind in "FBIW":
                yield f"{stage}{kind}{microbatch}"
