"""Looped BFS: breadth-first pipeline parallelism, all microbatches through the earlier stage first (Lamy-Poirier 2022)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from workbench.strategies.pipeline.schedules.base import Schedule, schedule

if TYPE_CHECKING:
    from torch.distributed.pipelining import PipelineStage


@schedule("looped_bfs")
class LoopedBFS(Schedule):
    """GPipe with several stages per worker: all microbatches run through a stage before the next, for a smaller bubble."""

    default_stages_per_worker, min_stages_per_worker, max_stages_per_worker = 2, 1, 8

    def build(self, stages: Sequence[PipelineStage], loss: Callable[..., Any] | None) -> Any:
        from torch.distributed.pipelining import ScheduleLoopedBFS

        return ScheduleLoopedBFS(list(stages), self.num_microbatches, loss_fn=loss)
