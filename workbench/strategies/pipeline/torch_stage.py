"""torch's pipeline stage, with each microbatch's forward and backward marked for the timeline."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from torch import Tensor, nn

from workbench.torch_private.autograd import is_view
from workbench.torch_private.pipelining import PipelineStage

if TYPE_CHECKING:
    from workbench.strategies.worker_model import Records


class RecordedStage(PipelineStage):
    """A PipelineStage that marks what it computes."""

    recorder: Records
    inputs_meta: tuple[Tensor, ...]
    """Of the first stage a microbatch of its inputs, without data, which torch 2.11 compares with what it is given."""
    input_like: Tensor
    """A microbatch of what it takes, with a shape and no data."""
    begin_piece: Callable[[int], None]
    """Called with a microbatch before it goes forward."""
    microbatch: int = 0
    """The one that went forward last."""
    needs_input_gradients: bool = False
    """Whether its inputs take gradients although none go back: torch finds the weights of a split backward pass from its
    inputs on, and takes those before them for none of its own (``stage_backward_input``, torch 2.13)."""
    shared: Callable[[], list[nn.Parameter]] = list
    """Parameters that another stage of this worker holds too: the mean over microbatches is taken of all of it, once."""

    splits_backward: bool = False
    """Whether backward passes are split in inputs' and weights': torch then detaches outputs in place, which no view admits
    (``stage_backward_input``, torch 2.13)."""

    def forward_maybe_with_nosync(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward_maybe_with_nosync(*args, **kwargs)
        return output.clone() if self.splits_backward and output.requires_grad and is_view(output) else output

    def forward_one_chunk(self, fwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
        self.microbatch = fwd_chunk_id
        self.begin_piece(fwd_chunk_id)
        with self.recorder.span("forward", stage=self.stage_index, microbatch=fwd_chunk_id):
            return super().forward_one_chunk(fwd_chunk_id, *args, **kwargs)

    def backward_one_chunk(
        self, bwd_chunk_id: int, loss: Any = None, full_backward: bool = True, last_backward: bool = False
    ) -> None:
        kind = "backward" if full_backward else "backward_input"
        with self._backward(kind, microbatch=bwd_chunk_id):
            super().backward_one_chunk(bwd_chunk_id, loss, full_backward, last_backward)
        if self.needs_input_gradients:
            self.bwd_cache[bwd_chunk_id] = (None,)  # no stage waits for them

    def backward_weight_one_chunk(self, bwd_chunk_id: int, last_backward: bool = False) -> None:
        with self._backward("backward_weight", microbatch=bwd_chunk_id):
            super().backward_weight_one_chunk(bwd_chunk_id, last_backward=last_backward)

    def received_activations(self, microbatch: int) -> tuple[Tensor, ...]:
        (activation,) = super().received_activations(microbatch)
        return (activation.requires_grad_() if self.needs_input_gradients else activation,)

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
        """Marks it, unless nothing goes backward: then torch calls this and does nothing."""
        return self.recorder.span(kind, stage=self.stage_index, **about) if self.has_backward else nullcontext()
