"""1F1B: one forward, one backward in turn once the pipeline is full (Narayanan et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from workbench.schedules.base import Schedule, schedule

if TYPE_CHECKING:
    from torch.distributed.pipelining import PipelineStage

    from workbench.spec.run_spec import RunSpec


@schedule("1f1b")
class OneForwardOneBackward(Schedule):
    """GPipe's bubble, but at most p microbatches' activations held: backward begins as soon as it can."""

    def check(self, spec: RunSpec) -> None:
        super().check(spec)
        self.at_least_as_many_microbatches_as(self.num_stages, "stages")

    def build(self, stages: Sequence[PipelineStage], loss: Callable[..., Any] | None) -> Any:
        from torch.distributed.pipelining import Schedule1F1B

        return Schedule1F1B(stages[0], self.num_microbatches, loss_fn=loss)
