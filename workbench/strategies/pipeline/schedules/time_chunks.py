"""Time chunks: the sequence is cut instead of the batch, for recurrent layers that pass a state from chunk to chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from workbench.errors import SplitError
from workbench.strategies.pipeline.schedules.base import Schedule, divisors, schedule

if TYPE_CHECKING:
    from torch.distributed.pipelining import PipelineStage

    from workbench.plan.model_summary import ModelSummary
    from workbench.spec.run_spec import RunSpec


@schedule("time_chunks")
class TimeChunks(Schedule):
    """Splits the sequence, not the batch, into m chunks for recurrent layers: a stage computes one chunk while the stage before
    computes the next. Bubble (p−1)/(m+p−1), activations of all chunks."""

    cut_dim = 1
    gathers_stages = False
    has_actions = False

    def gathers(self, stage: int, trains: bool) -> tuple[int, int]:
        """Returns the numbers of GPipe: each forward pass frees what it gathered; the first backward pass gathers for all."""
        return self.num_microbatches, int(trains)

    def check(self, spec: RunSpec) -> None:
        super().check(spec)
        if spec.train.checkpointing == "selective":
            raise SplitError(
                "train.checkpointing",
                "selective keeps matrix products, which torch's recurrent kernels overwrite (torch 2.13); use full",
            )
        if spec.train.mixed_precision != "none":
            raise SplitError(
                "train.mixed_precision",
                "bf16 is incompatible with time_chunks, which passes recurrent states to its layers; use none, or 1f1b",
            )

    def check_pieces(self, model: ModelSummary, spec: RunSpec) -> None:
        if not model.steps_through_time:
            raise SplitError(
                "split.pipeline.schedule",
                f"{model.name} does not support time_chunks, which requires layers that pass a state from step to step; use the"
                " model lstm, or 1f1b, which cuts the batch",
            )
        if excluded := [p.name for p in model.distinct_parameters if not p.has_gradient and spec.mode == "train"]:
            raise SplitError(
                "split.pipeline.schedule",
                f"time_chunks does not support frozen or unused parameters, such as {excluded[0]} of {model.name}; use gpipe,"
                " which cuts the batch",
            )
        length, count = model.blocks[0].output_shape[0], self.num_microbatches
        if length % count:
            raise SplitError(
                "split.pipeline.num_microbatches",
                f"a sequence of {length} is not divisible into {count} chunks (remainder {length % count});"
                f" use {divisors(length)}",
            )

    def build(self, stages: Sequence[PipelineStage], loss: Callable[..., Any] | None) -> Any:
        from workbench.strategies.pipeline.schedules.time_chunks_modules import TimeChunkSchedule

        return TimeChunkSchedule(stages[0], self.num_microbatches, loss)
