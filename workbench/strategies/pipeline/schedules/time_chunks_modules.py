"""The time-chunk pipeline in plain torch, behind the interface of torch's schedules."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

State = tuple[Tensor, ...]


@dataclass
class Chunk:
    """Tensors of one chunk that backward needs."""

    inputs: Tensor
    states: list[State]
    """Initial state of each recurrent block, detached from the previous chunk."""

    outputs: Tensor
    """Outputs (batch, steps of the chunk, …); the loss on the last stage."""

    final: list[State]
    """Final state of each recurrent block."""


class TimeChunkSchedule:
    """Runs forward through the chunks of a sequence and backward in reverse. The graph of a chunk ends at its initial states,
    whose gradients are passed to the previous chunk; gradients are therefore exact."""

    def __init__(self, stage: Any, num_chunks: int, loss: Callable[[Tensor, Tensor], Tensor] | None) -> None:
        self.stage, self.num_chunks, self.loss = stage, num_chunks, loss
        # Call the stage instead of its blocks: wrappers such as FSDP must see the call.
        stage.submod.forward = functools.partial(_with_states, stage.submod)

    def step(
        self,
        *inputs: Tensor,
        target: Tensor | None = None,
        losses: list[Tensor] | None = None,
        return_outputs: bool = True,
    ) -> Tensor | None:
        """Runs a step with the signature of torch's schedules: takes ``inputs`` (batch, sequence, …) on the first stage, adds the
        losses of the chunks to ``losses``, and returns the outputs on the last."""
        stage, count = self.stage, self.num_chunks
        pieces = inputs[0].chunk(count, 1) if inputs else ()
        targets = () if target is None else target.chunk(count, 1)
        arriving = [] if stage.is_first else [self._receive(stage.inputs_like[0], -1) for _ in range(count)]
        sends: list[Any] = []
        chunks: list[Chunk] = []
        kept: list[Tensor] = []  # in inference; in training the loss has them
        states: list[State] = [() for block in stage.submod if hasattr(block, "forward_with_state")]
        for number in range(count):
            x = pieces[number] if stage.is_first else self._arrived(arriving[number])
            stage.microbatch = number
            stage.begin_piece(number)
            with stage.recorder.span("forward", stage=stage.stage_index, microbatch=number):
                outputs, final = stage.submod(x, states)
                if stage.is_last and return_outputs:
                    kept.append(outputs.detach())
                if stage.is_last and self.loss is not None:
                    outputs = self.loss(outputs, targets[number])
                    assert losses is not None
                    losses.append(outputs.detach())
            if not stage.is_last:
                sends.append(self._send(outputs.detach(), +1))
            if self.loss is not None:
                chunks.append(Chunk(x, states, outputs, final))
            states = [tuple(s.detach().requires_grad_(self.loss is not None) for s in state) for state in final]
        if chunks:
            self._backward(chunks, sends)
        for work, _ in sends:
            work.wait()
        return torch.cat(kept, 1) if kept else None

    def _backward(self, chunks: list[Chunk], sends: list[Any]) -> None:
        """Runs backward, last chunk first, and appends its sends to ``sends``."""
        stage = self.stage
        arriving = [] if stage.is_last else [self._receive(chunk.outputs, +1) for chunk in reversed(chunks)]
        state_gradients: tuple[Any, ...] = ()  # gradients of the initial states of the next chunk
        while chunks:
            chunk, number = chunks.pop(), len(chunks)  # after the pop
            gradient = None if stage.is_last else self._arrived(arriving.pop(0))
            final = [s for state in chunk.final for s in state] if state_gradients else []
            with stage.recorder.span("backward", stage=stage.stage_index, microbatch=number):
                begin = [s for state in chunk.states for s in state]
                # torch's function: under FSDP it reduces gradients only once the last one is complete.
                (of_inputs, *of_begin), _ = stage.backward_maybe_with_nosync(
                    "full",
                    {
                        "stage_output": (chunk.outputs, *final),
                        "output_grads": (gradient, *state_gradients),
                        "input_values": (chunk.inputs, *begin),
                    },
                )
            state_gradients = tuple(of_begin)
            if not stage.is_first:
                sends.append(self._send(of_inputs, -1))
        stage.perform_reduce_grad(self.num_chunks)

    def _receive(self, like: Tensor, direction: int) -> tuple[Any, Tensor]:
        tensor = torch.empty(like.shape, dtype=like.dtype, device=self.stage.device)
        return dist.irecv(tensor, group=self.stage.group, group_src=self.stage.stage_index + direction), tensor

    def _arrived(self, receiving: tuple[Any, Tensor]) -> Tensor:
        work, tensor = receiving
        work.wait()
        return tensor.requires_grad_(self.loss is not None)

    def _send(self, tensor: Tensor, direction: int) -> tuple[Any, Tensor]:
        """Returns the work, and the tensor that must live until it is complete."""
        tensor = tensor.contiguous()
        return dist.isend(tensor, group=self.stage.group, group_dst=self.stage.stage_index + direction), tensor


def _with_states(blocks: nn.Sequential, x: Tensor, states: list[State]) -> tuple[Tensor, list[State]]:
    """Applies the blocks; those with a state take theirs, () at the beginning, and return the next."""
    left, final = iter(states), []
    for block in blocks:
        if hasattr(block, "forward_with_state"):
            x, state = block(x, next(left))
            final.append(state)
        else:
            x = block(x)
    return x, final
