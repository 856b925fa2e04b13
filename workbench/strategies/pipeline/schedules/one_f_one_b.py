"""1F1B: one forward, one backward in turn once the pipeline is full (Narayanan et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from workbench.strategies.pipeline.schedules.base import Schedule, schedule

if TYPE_CHECKING:
    from torch.distributed.pipelining import PipelineStage

    from workbench.spec.run_spec import RunSpec


@schedule("1f1b")
class OneForwardOneBackward(Schedule):
    """Alternates forward and backward passes: the bubble of GPipe, but activations of at most p microbatches."""

    gathers_stages = False

    def gathers(self, stage: int, trains: bool) -> tuple[int, int]:
        """A forward pass frees parameters, a backward pass keeps them: all are gathered for each of the p − s forward passes
        that fill the pipeline, and then for each backward pass that follows a forward one, 1 + m − (p − s)."""
        filling = min(self.num_microbatches, self.num_stages - stage) if trains else self.num_microbatches
        return filling, 1 + self.num_microbatches - filling if trains else 0

    def in_flight(self, worker: int) -> int:
        """As many as there are workers from here to the last (Narayanan et al. 2021, section 2.2)."""
        return min(self.num_microbatches, self.num_workers - worker)

    def outputs_kept(self, worker: int) -> int:
        """Of other stages the one that is being sent while an earlier microbatch's backward pass begins."""
        return super().outputs_kept(worker) or int(self.num_microbatches > self.in_flight(worker))

    def check(self, spec: RunSpec) -> None:
        super().check(spec)
        self.at_least_as_many_microbatches_as(self.num_stages, "stages")

    def build(self, stages: Sequence[PipelineStage], loss: Callable[..., Any] | None) -> Any:
        from torch.distributed.pipelining import Schedule1F1B

        return Schedule1F1B(stages[0], self.num_microbatches, loss_fn=loss)
