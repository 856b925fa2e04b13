"""DualPipeV: DeepSeek's DualPipe folded into a V (DeepSeek-AI 2024, section 3.2.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from workbench.strategies.pipeline.schedules.base import Schedule, schedule

if TYPE_CHECKING:
    from torch.distributed.pipelining import PipelineStage

    from workbench.spec.run_spec import RunSpec


@schedule("dualpipev")
class DualPipeV(Schedule):
    """Two stages per worker in a V, with overlapping forward and backward passes of different microbatches."""

    default_stages_per_worker = min_stages_per_worker = max_stages_per_worker = 2
    placement = "v"
    splits_backward = True
    runs_forward_only = False

    def check(self, spec: RunSpec) -> None:
        super().check(spec)
        self.at_least_as_many_microbatches_as(self.num_stages, "stages")

    def build(self, stages: Sequence[PipelineStage], loss: Callable[..., Any] | None) -> Any:
        from torch.distributed.pipelining import ScheduleDualPipeV

        return ScheduleDualPipeV(list(stages), self.num_microbatches, loss_fn=loss)
