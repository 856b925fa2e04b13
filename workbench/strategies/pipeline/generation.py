"""One generation by a worker's blocks, alone or as one stage of several: the prompt first, then token after token."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from workbench.strategies.worker_model import StepResult

if TYPE_CHECKING:
    from workbench.strategies.worker_model import Compute, WorkerModel


@dataclass
class Links:
    """How a worker's blocks are joined to those of the other stages, a worker each."""

    worker: WorkerModel
    stage: int
    num_stages: int
    stages: dist.ProcessGroup
    ends: dist.ProcessGroup | None
    """The last stage and the first. A group of its own: back-ends that run a group's operations in order would lock up
    where activations and tokens pass each other."""

    features: int
    """Of what the stage before hands on, per position."""

    def receive_activation(self, batch: int, positions: int) -> Tensor:
        """(batch, positions, features) from the stage before."""
        like = torch.empty(batch, positions, self.features, dtype=self.worker.compute_dtype, device=self.worker.device)
        return self._receive(like, self.stages, self.stage - 1)

    def send_activation(self, activation: Tensor) -> dist.Work:
        """To the next stage."""
        return self._send(activation.contiguous(), self.stages, self.stage + 1)

    def receive_token(self, batch: int) -> Tensor:
        """(batch, 1) of int64 from the last stage."""
        return self._receive(torch.empty(batch, 1, dtype=torch.int64, device=self.worker.device), self.ends, 1)

    def send_token(self, token: Tensor) -> dist.Work:
        """To the first stage."""
        return self._send(token, self.ends, 0)

    # What is sent backwards here also belongs to the forward pass, so the phase is announced for every operation.
    def _receive(self, tensor: Tensor, group: dist.ProcessGroup | None, source: int) -> Tensor:
        self.worker.recorder.announce([tensor], "forward")
        dist.recv(tensor, group=group, group_src=source)
        return tensor

    def _send(self, tensor: Tensor, group: dist.ProcessGroup | None, target: int) -> dist.Work:
        self.worker.recorder.announce([tensor], "forward")
        work = dist.isend(tensor, group=group, group_dst=target)
        assert work is not None
        return work


def generation(worker: WorkerModel, links: Links | None = None) -> Compute:
    """A step that generates for this worker's part of the batch, with all blocks or, with ``links``, with those of a stage.

    The batch goes through in ``worker.num_microbatches`` pieces, each with a cache of its own: while one piece's token is on
    its way, the stages work on the others. The last stage chooses the tokens and sends them to the first alone, the final
    ones too: who gave the prompt gets the answer.
    """
    options = worker.rank_view.spec.inference
    stage, last = (links.stage, links.num_stages - 1) if links else (0, 0)
    max_length = options.prompt_length + options.num_new_tokens - 1

    def step(inputs: Tensor, targets: Tensor) -> StepResult:
        prompts = inputs[:, : options.prompt_length].chunk(worker.num_microbatches)
        decoders = [worker.make_decoder(worker.blocks, max_length) for _ in prompts]
        tokens: list[list[Tensor]] = [[] for _ in prompts]
        logits: list[list[Tensor]] = [[] for _ in prompts]
        sends: list[tuple[dist.Work, Tensor]] = []  # tensors live until they are sent
        first_token_at = None
        for turn in range(options.num_new_tokens):
            for piece, prompt in enumerate(prompts):
                if links and stage > 0:
                    x = links.receive_activation(len(prompt), 1 if turn else options.prompt_length)
                elif links and turn:
                    tokens[piece].append(links.receive_token(len(prompt)))
                    x = tokens[piece][-1]
                else:
                    x = tokens[piece][-1] if turn else prompt
                with worker.span("forward", stage=stage, microbatch=piece):
                    outputs = decoders[piece](x)
                    if stage == last:
                        tokens[piece].append(outputs.argmax(dim=-1))  # (batch, 1)
                        logits[piece] += [outputs] if worker.keep_outputs else []
                if links and stage < last:
                    sends.append((links.send_activation(outputs), outputs))
                elif links:
                    sends.append((links.send_token(tokens[piece][-1]), tokens[piece][-1]))
            if stage == last and not turn:
                first_token_at = _now(worker.device)
        if links and stage == 0:
            for piece, prompt in enumerate(prompts):
                tokens[piece].append(links.receive_token(len(prompt)))
        for work, _ in sends:
            work.wait()
        return StepResult(None, _joined(logits), _joined(tokens), first_token_at)

    return step


def _now(device: torch.device) -> float:
    """The time at which all that was begun is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _joined(pieces: list[list[Tensor]]) -> Tensor | None:
    """(batch of a piece, 1, …) by piece and position → (batch, positions, …); None where there are none."""
    return torch.cat([torch.cat(piece, dim=1) for piece in pieces]) if pieces[0] else None
