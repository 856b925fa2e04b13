"""torch's pipeline stage, with each microbatch's forward and backward marked for the timeline."""

from __future__ import annotations

from typing import Any

from torch.distributed.pipelining import PipelineStage

from workbench.strategies.worker_model import Span


class RecordedStage(PipelineStage):
    """A PipelineStage that marks what it computes."""

    span: Span

    def forward_one_chunk(self, fwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
        with self.span("forward", stage=self.stage_index, microbatch=fwd_chunk_id):
            return super().forward_one_chunk(fwd_chunk_id, *args, **kwargs)

    def backward_one_chunk(self, bwd_chunk_id: int, *args: Any, **kwargs: Any) -> None:
        with self.span("backward", stage=self.stage_index, microbatch=bwd_chunk_id):
            super().backward_one_chunk(bwd_chunk_id, *args, **kwargs)
