"""Interleaved zero-bubble: weight gradients fill what 1F1B leaves idle (ZB1P, Qi et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from workbench.strategies.pipeline.schedules.base import Schedule, schedule

if TYPE_CHECKING:
    from torch.distributed.pipelining import PipelineStage

    from workbench.spec.run_spec import RunSpec


@schedule("interleaved_zero_bubble")
class InterleavedZeroBubble(Schedule):
    """Interleaved 1F1B with the backward pass split: weight gradients are computed when the worker would otherwise be idle."""

    default_stages_per_worker, min_stages_per_worker, max_stages_per_worker = 2, 1, 8
    splits_backward = True

    def check(self, spec: RunSpec) -> None:
        super().check(spec)
        self.divides_into_rounds()

    def build(self, stages: Sequence[PipelineStage], loss: Callable[..., Any] | None) -> Any:
        from torch.distributed.pipelining import ScheduleInterleavedZeroBubble

        return ScheduleInterleavedZeroBubble(list(stages), self.num_microbatches, loss_fn=loss)
