"""A schedule that a user defines in a file, action by action."""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from workbench.errors import SplitError
from workbench.strategies.pipeline.schedules import action_order
from workbench.strategies.pipeline.schedules.base import ActionSchedule, schedule

if TYPE_CHECKING:
    from workbench.spec.run_spec import RunSpec


@schedule("csv")
class FromCSV(ActionSchedule):
    """Schedule from a CSV file with one row of actions per worker: stage, F, B, I or W, microbatch.

    Two stages and two microbatches in the order of 1F1B; ``schedule_file`` contains

        0F0,0F1,,0B0,,0B1
        ,1F0,1B0,1F1,1B1

    An empty cell is a wait, for readability only: an action runs as early as possible. The stages in a row are those of its
    worker. I and W are the two halves of B. `workbench schedules --actions 1f1b` prints an example.
    """

    has_actions = False
    examples = {"1f1b": {"num_microbatches": 2, "actions": ["0F0,0F1,0B0,0B1", "1F0,1B0,1F1,1B1"]}}

    @cached_property
    def order(self) -> action_order.Order:
        """Actions of each worker."""
        return action_order.read(self.options.actions)

    @property
    def splits_backward(self) -> bool:  # type: ignore[override]
        return any(action.kind == "I" for actions in self.order for action in actions)

    def worker_of_stage(self) -> list[int]:
        worker = {action.stage: worker for worker, actions in enumerate(self.order) for action in actions}
        return [worker[stage] for stage in sorted(worker)]

    def check(self, spec: RunSpec) -> None:
        if not self.options.actions:
            raise SplitError(
                "split.pipeline.schedule_file", "required by schedule = csv; set it to a file with the actions of each worker"
            )
        if self.options.stages_per_worker is not None:
            raise SplitError(
                "split.pipeline.stages_per_worker", "follows from the rows of the file; remove it with schedule = csv"
            )
        action_order.check(self.order, self.num_workers, self.num_microbatches)
        super().check(spec)
        if spec.mode == "inference" and any(a == b for a, b in pairwise(self.worker_of_stage())):
            raise SplitError(
                "split.pipeline.schedule_file",
                "has consecutive stages on one worker, for which torch's schedule does not support inference",
            )

    def actions(self, worker: int) -> list[str]:
        return [str(action) for action in self.order[worker]]
