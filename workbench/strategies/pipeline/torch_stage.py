"""torch's pipeline stage, with the forward and backward pass of each microbatch marked in the timeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from torch import Tensor, nn

from workbench.torch_private.autograd import is_view
from workbench.torch_private.pipelining import PipelineStage

if TYPE_CHECKING:
    from workbench.strategies.worker_model import StepRecorder


class RecordedStage(PipelineStage):
    """A PipelineStage that marks its computation."""

    recorder: StepRecorder
    inputs_meta: tuple[Tensor, ...]
    """Meta tensors of a microbatch of inputs of the first stage, against which torch 2.11 checks its arguments."""
    inputs_like: tuple[Tensor, ...]
    """Meta tensors like a microbatch of its inputs."""
    pieces: Sequence[Any] = ()
    """The samples of each microbatch, which also a stage after the first may need."""
    begin_piece: Callable[[int], None]
    """Called with the index of a microbatch before its forward pass."""
    microbatch: int = 0
    """Index of the last microbatch that ran forward."""
    needs_input_gradients: bool = False
    """Whether its inputs require gradients that are not sent. In a split backward pass torch finds weights from the inputs on,
    and would miss those before them (``stage_backward_input``, torch 2.13)."""
    shared: Callable[[], list[nn.Parameter]] = list
    """Returns parameters that another stage of this worker also holds; their mean over microbatches is taken once."""

    splits_backward: bool = False
    """Whether backward passes are split into those of inputs and of weights: torch then detaches outputs in place, which views do
    not allow (``stage_backward_input``, torch 2.13)."""

    def forward_maybe_with_nosync(self, *args: Any, **kwargs: Any) -> Any:
        outputs = super().forward_maybe_with_nosync(*args, **kwargs)
        if isinstance(outputs, tuple):
            return tuple(map(self._detachable, outputs))
        return self._detachable(outputs)

    def _detachable(self, output: Tensor) -> Tensor:
        return output.clone() if self.splits_backward and output.requires_grad and is_view(output) else output

    def forward_one_chunk(self, fwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
        self.microbatch = fwd_chunk_id
        self.begin_piece(fwd_chunk_id)
        self.submod.samples = self.pieces[fwd_chunk_id]
        with self.recorder.span("forward", stage=self.stage_index, microbatch=fwd_chunk_id):
            return super().forward_one_chunk(fwd_chunk_id, *args, **kwargs)

    def backward_one_chunk(
        self, bwd_chunk_id: int, loss: Any = None, full_backward: bool = True, last_backward: bool = False
    ) -> None:
        kind = "backward" if full_backward else "backward_input"
        with self._backward(kind, microbatch=bwd_chunk_id):
            super().backward_one_chunk(bwd_chunk_id, loss, full_backward, last_backward)
        if self.needs_input_gradients:
            self.bwd_cache[bwd_chunk_id] = (None,)  # no stage waits for these gradients

    def backward_weight_one_chunk(self, bwd_chunk_id: int, last_backward: bool = False) -> None:
        with self._backward("backward_weight", microbatch=bwd_chunk_id):
            super().backward_weight_one_chunk(bwd_chunk_id, last_backward=last_backward)

    def received_activations(self, microbatch: int) -> tuple[Tensor, ...]:
        activations = super().received_activations(microbatch)
        return tuple(a.requires_grad_() for a in activations) if self.needs_input_gradients else activations

    def scale_grads(self, grad_scale_factor: int) -> None:
        shared = set(self.shared())
        for parameter in self.submod.parameters():
            if parameter.grad is not None and parameter not in shared:
                parameter.grad.div_(grad_scale_factor)

    def get_fwd_recv_ops(self, fwd_chunk_id: int) -> list[dist.P2POp]:
        return self._announced(super().get_fwd_recv_ops(fwd_chunk_id), "forward")

    def get_fwd_send_ops(self, fwd_chunk_id: int) -> list[dist.P2POp]:
        return self._announced(super().get_fwd_send_ops(fwd_chunk_id), "forward")

    def get_bwd_recv_ops(self, bwd_chunk_id: int) -> list[dist.P2POp]:
        return self._announced(super().get_bwd_recv_ops(bwd_chunk_id), "backward")

    def get_bwd_send_ops(self, bwd_chunk_id: int) -> list[dist.P2POp]:
        return self._announced(super().get_bwd_send_ops(bwd_chunk_id), "backward")

    def _announced(self, operations: list[dist.P2POp], phase: str) -> list[dist.P2POp]:
        self.recorder.announce((op.tensor for op in operations), phase)
        return operations

    def perform_reduce_grad(self, grad_scale_factor: int) -> None:
        with self._backward("backward", name="average gradients"):
            super().perform_reduce_grad(grad_scale_factor)

    def _backward(self, kind: str, **about: Any) -> AbstractContextManager[Any]:
        """Marks a backward pass, unless there is none: torch then calls this without effect."""
        return self.recorder.span(kind, stage=self.stage_index, **about) if self.has_backward else nullcontext()
