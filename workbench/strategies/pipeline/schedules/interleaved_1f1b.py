"""Interleaved 1F1B: several stages a worker, the earlier microbatch first (Narayanan et al. 2021, section 2.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from workbench.strategies.pipeline.schedules.base import Schedule, schedule

if TYPE_CHECKING:
    from torch.distributed.pipelining import PipelineStage

    from workbench.spec.run_spec import RunSpec


@schedule("interleaved_1f1b")
class Interleaved1F1B(Schedule):
    """1F1B with v stages per worker: bubble (p−1)/(v·m+p−1), v times the communication volume of boundary activations."""

    default_stages_per_worker, min_stages_per_worker, max_stages_per_worker = 2, 1, 8

    def check(self, spec: RunSpec) -> None:
        super().check(spec)
        self.divides_into_rounds()

    def build(self, stages: Sequence[PipelineStage], loss: Callable[..., Any] | None) -> Any:
        from torch.distributed.pipelining import ScheduleInterleaved1F1B

        return ScheduleInterleaved1F1B(list(stages), self.num_microbatches, loss_fn=loss)
