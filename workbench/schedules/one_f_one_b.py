"""1F1B: one forward, one backward in turn once the pipeline is full (Narayanan et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from workbench.errors import SplitError
from workbench.schedules.base import Schedule, schedule

if TYPE_CHECKING:
    from torch.distributed.pipelining import PipelineStage


@schedule("1f1b")
class OneForwardOneBackward(Schedule):
    """GPipe's bubble, but at most p microbatches' activations held: backward begins as soon as it can."""

    @classmethod
    def check(cls, num_stages: int, num_microbatches: int) -> None:
        if num_microbatches < num_stages:
            raise SplitError(
                "split.pipeline.num_microbatches",
                f"1f1b needs at least as many microbatches as stages: {num_microbatches} < {num_stages}; or use gpipe",
            )

    @classmethod
    def build(cls, stage: PipelineStage, num_microbatches: int, loss: Callable[..., Any]) -> Any:
        from torch.distributed.pipelining import Schedule1F1B

        return Schedule1F1B(stage, num_microbatches, loss_fn=loss)
