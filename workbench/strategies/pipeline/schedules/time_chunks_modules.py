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
    """What backward needs of one chunk."""

    inputs: Tensor
    states: list[State]
    """What each recurrent block began with, cut off from the chunk before."""

    outputs: Tensor
    """(batch, steps of the chunk, …); on the last stage the loss."""

    final: list[State]
    """What each recurrent block ended with."""


class TimeChunkSchedule:
    """Forward through the chunks of a sequence in turn, backward in reverse. A chunk's graph ends at the states it begins
    with; their gradients are carried to the chunk before, so gradients are exact."""

    def __init__(self, stage: Any, num_chunks: int, loss: Callable[[Tensor, Tensor], Tensor] | None) -> None:
        self.stage, self.num_chunks, self.loss = stage, num_chunks, loss
        # Through the stage itself, not its blocks one by one: what wraps it (FSDP) must see the call.
        stage.submod.forward = functools.partial(_with_states, stage.submod)

    def step(
        self,
        *inputs: Tensor,
        target: Tensor | None = None,
        losses: list[Tensor] | None = None,
        return_outputs: bool = True,
    ) -> Tensor | None:
        """As torch's: takes ``inputs`` (batch, sequence, …) on the first stage; adds the chunks' losses to ``losses`` and
        returns the outputs on the last."""
        stage, count = self.stage, self.num_chunks
        pieces = inputs[0].chunk(count, 1) if inputs else ()
        targets = () if target is None else target.chunk(count, 1)
        arriving = [] if stage.is_first else [self._receive(stage.input_like, -1) for _ in range(count)]
        sends: list[Any] = []
        chunks: list[Chunk] = []
        kept: list[Tensor] = []
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
        """Last chunk first; adds what it sends to ``sends``."""
        stage = self.stage
        arriving = [] if stage.is_last else [self._receive(chunk.outputs, +1) for chunk in reversed(chunks)]
        of_final: tuple[Any, ...] = ()  # gradients of the states that the chunk after began with
        while chunks:
            chunk, number = chunks.pop(), len(chunks)  # after the pop
            gradient = None if stage.is_last else self._arrived(arriving.pop(0))
            final = [s for state in chunk.final for s in state] if of_final else []
            with stage.recorder.span("backward", stage=stage.stage_index, microbatch=number):
                begin = [s for state in chunk.states for s in state]
                # torch's own: under FSDP it leaves gradients alone until the last of them is there.
                (of_inputs, *of_begin), _ = stage.backward_maybe_with_nosync(
                    "full",
                    {
                        "stage_output": (chunk.outputs, *final),
                        "output_grads": (gradient, *of_final),
                        "input_values": (chunk.inputs, *begin),
                    },
                )
            of_final = tuple(of_begin)
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
        """The work, and what must live until it is done."""
        tensor = tensor.contiguous()
        return dist.isend(tensor, group=self.stage.group, group_dst=self.stage.stage_index + direction), tensor


def _with_states(blocks: nn.Sequential, x: Tensor, states: list[State]) -> tuple[Tensor, list[State]]:
    """The blocks one after the other; those that carry a state take theirs, () at the beginning, and hand on the next."""
    left, final = iter(states), []
    for block in blocks:
        if hasattr(block, "forward_with_state"):
            x, state = block(x, next(left))
            final.append(state)
        else:
            x = block(x)
    return x, final
