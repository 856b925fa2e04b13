"""GPipe: all microbatches forward, then all backward (Huang et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from workbench.strategies.pipeline.schedules.base import Schedule, schedule

if TYPE_CHECKING:
    from torch.distributed.pipelining import PipelineStage


@schedule("gpipe")
class GPipe(Schedule):
    """All forward passes, then all backward passes: bubble (p−1)/(m+p−1), activations of all m microbatches."""

    gathers_stages = False

    def gathers(self, stage: int, trains: bool) -> tuple[int, int]:
        """Each forward pass frees what it gathered; the first backward pass gathers for all."""
        return self.num_microbatches, int(trains)

    def in_flight(self, worker: int) -> int:
        return self.num_microbatches

    def build(self, stages: Sequence[PipelineStage], loss: Callable[..., Any] | None) -> Any:
        from torch.distributed.pipelining import ScheduleGPipe

        return ScheduleGPipe(stages[0], self.num_microbatches, loss_fn=loss)
