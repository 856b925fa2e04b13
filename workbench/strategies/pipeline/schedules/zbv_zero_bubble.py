"""ZB-V: zero bubble with two stages a worker, placed as a V (Qi et al. 2024, section 6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from workbench.strategies.pipeline.schedules.base import Schedule, schedule

if TYPE_CHECKING:
    from torch.distributed.pipelining import PipelineStage


@schedule("zbv_zero_bubble")
class ZBVZeroBubble(Schedule):
    """Two stages per worker in a V; no bubble if forward, input and weight gradients take equally long; memory as 1F1B."""

    default_stages_per_worker = min_stages_per_worker = max_stages_per_worker = 2
    placement = "v"
    splits_backward = True
    runs_forward_only = False

    def build(self, stages: Sequence[PipelineStage], loss: Callable[..., Any] | None) -> Any:
        from torch.distributed.pipelining import ScheduleZBVZeroBubble

        return ScheduleZBVZeroBubble(list(stages), self.num_microbatches, loss_fn=loss)
