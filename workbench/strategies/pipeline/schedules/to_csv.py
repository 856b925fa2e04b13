"""What torch's schedules do, worker by worker, as rows of the file that the schedule `csv` runs by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from workbench.strategies.pipeline.schedules.base import Schedule


def rows_of(schedule: Schedule) -> list[str]:
    """A row a worker; an empty cell is a wait."""
    from torch import nn

    from workbench.torch_private.pipelining import order_of

    # What torch's constructors ask of a stage to make an order for all workers: no process group, nothing that computes.
    stage = {"num_stages": schedule.num_stages, "group_size": schedule.num_workers, "group_rank": 0, "submod": nn.Module()}
    stages: list[Any] = [SimpleNamespace(**stage) for _ in range(schedule.num_stages // schedule.num_workers)]
    built = schedule.build(stages, lambda outputs, targets: None)
    order = order_of(built)
    return [",".join(_cells(order[worker])) for worker in range(schedule.num_workers)]


def _cells(actions: Sequence[Any]) -> Iterator[str]:
    """The computations in their order, those that torch overlaps one after the other."""
    forwards: Counter[int] = Counter()
    for action in actions:
        if action is None:
            yield ""
            continue
        for part in action.sub_actions or (action,):
            stage, kind, microbatch = part.stage_index, part.computation_type.value, part.microbatch_index
            if kind == "F":
                # 1F1B's record (torch 2.13, not its step) counts the last stage's from 1; all of them run from 0 up.
                microbatch = forwards[stage]
                forwards[stage] += 1
            if kind in "FBIW":
                yield f"{stage}{kind}{microbatch}"
