"""Generation by the blocks of a worker, alone or as one of several stages: the prompt first, then token by token."""

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
    """Communication of a stage with the other stages, each on one worker."""

    worker: WorkerModel
    stage: int
    num_stages: int
    stages: dist.ProcessGroup
    ends: dist.ProcessGroup | None
    """Process group of the last and the first stage. It is separate because backends that run the operations of a group in order
    would deadlock when activations and tokens cross."""

    shapes: tuple[tuple[int, ...], ...]
    """Shapes per position of the tensors that the previous stage sends."""

    def receive_activations(self, batch: int, positions: int) -> list[Tensor]:
        """Receives tensors (batch, positions, …) from the previous stage."""
        dtype, device = self.worker.compute_dtype, self.worker.device
        like = [torch.empty(batch, positions, *shape, dtype=dtype, device=device) for shape in self.shapes]
        return [self._receive(tensor, self.stages, self.stage - 1) for tensor in like]

    def send_activations(self, outputs: Tensor | tuple[Tensor, ...]) -> list[tuple[dist.Work, Tensor]]:
        """Sends what crosses the cut to the next stage; the tensors must live until they are sent."""
        activations = [a.contiguous() for a in (outputs if isinstance(outputs, tuple) else (outputs,))]
        return [(self._send(activation, self.stages, self.stage + 1), activation) for activation in activations]

    def receive_token(self, batch: int) -> Tensor:
        """Receives (batch, 1) of int64 from the last stage."""
        return self._receive(torch.empty(batch, 1, dtype=torch.int64, device=self.worker.device), self.ends, 1)

    def send_token(self, token: Tensor) -> dist.Work:
        """Sends a token to the first stage."""
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
    """Returns a step that generates for this worker's part of the batch, with all blocks or, given ``links``, those of one stage.

    The batch is divided into ``worker.num_microbatches`` pieces, each with its own cache: while the token of one piece is in
    transit, the stages work on the others. The last stage selects the tokens and sends all of them to the first stage, including
    the final ones, since the first stage has the prompt and returns the result.
    """
    options = worker.rank_view.spec.inference
    stage, last = (links.stage, links.num_stages - 1) if links else (0, 0)
    positions = [n for n, count in worker.full_model.generation.passes(options) for _ in range(count)]

    def step(inputs: Tensor, targets: Tensor) -> StepResult:
        prompts = inputs[:, : options.prompt_length].chunk(worker.num_microbatches)
        decoders = [worker.make_decoder(worker.blocks, options) for _ in prompts]
        tokens: list[list[Tensor]] = [[] for _ in prompts]
        logits: list[list[Tensor]] = [[] for _ in prompts]
        sends: list[tuple[dist.Work, Tensor]] = []  # tensors must live until they are sent
        first_token_at = None
        for turn in range(options.num_new_tokens):
            for piece, prompt in enumerate(prompts):
                if links and stage > 0:
                    x = links.receive_activations(len(prompt), positions[turn])
                elif links and turn:
                    tokens[piece].append(links.receive_token(len(prompt)))
                    x = [tokens[piece][-1]]
                else:
                    x = [tokens[piece][-1] if turn else prompt]
                with worker.span("forward", stage=stage, microbatch=piece):
                    outputs = decoders[piece](*x)
                    if stage == last:
                        tokens[piece].append(outputs.argmax(dim=-1))  # (batch, 1)
                        logits[piece] += [outputs] if worker.keep_outputs else []
                if links and stage < last:
                    sends += links.send_activations(outputs)
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
    """Returns the time when all work issued so far is complete."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _joined(pieces: list[list[Tensor]]) -> Tensor | None:
    """Joins (batch of a piece, 1, …) by piece and position to (batch, positions, …); None without pieces."""
    return torch.cat([torch.cat(piece, dim=1) for piece in pieces]) if pieces[0] else None
