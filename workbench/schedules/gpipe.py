"""GPipe: all microbatches forward, then all backward (Huang et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from workbench.schedules.base import Schedule, schedule

if TYPE_CHECKING:
    from torch.distributed.pipelining import PipelineStage


@schedule("gpipe")
class GPipe(Schedule):
    """All forward, then all backward: bubble (p−1)/(m+p−1), activations of all m microbatches held."""

    @classmethod
    def check(cls, num_stages: int, num_microbatches: int) -> None:
        """Any numbers work."""

    @classmethod
    def build(cls, stage: PipelineStage, num_microbatches: int, loss: Callable[..., Any]) -> Any:
        from torch.distributed.pipelining import ScheduleGPipe

        return ScheduleGPipe(stage, num_microbatches, loss_fn=loss)
