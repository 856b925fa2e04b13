"""The reference of a parity check: the unsplit model on one worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from workbench.models.dropout_modules import DropoutKeys
from workbench.models.kv_cache import generate
from workbench.models.user.stage_modules import UserBlocks, WholeModule
from workbench.models.user.state_modules import Attributes
from workbench.plan.batch_modules import pieces, selected
from workbench.plan.plan import Plan
from workbench.runtime.batches import Batches
from workbench.runtime.build import build_blocks
from workbench.runtime.mixed_precision import ComputeCopies, loss_in
from workbench.runtime.parity.dropout import turn_off_dropout
from workbench.runtime.parity.local_tensors import LocalTensor
from workbench.runtime.parity.lower_precision import LowerPrecision
from workbench.spec.run_spec import Inference
from workbench.strategies.worker_model import WorkerModel, zero_of
from workbench.torch_private.modules import AnyBatchNorm

LEARNING_RATE = 0.1
"""Learning rate of the SGD steps. Adam would turn the rounding noise of a gradient that is exactly zero into a full step."""


@dataclass(frozen=True)
class ReferenceStep:
    """What one worker computes in a step: the tensors to compare with those of the split, by name."""

    shards: dict[str, Tensor]
    """Of the same shards, one after the other."""

    whole_batch: dict[str, Tensor] | None
    """Of the whole batch at once, from the same parameters. None if it is a single shard, or if no single worker has the
    parameters of all replicas."""

    floors: Mapping[str, float] = field(default_factory=dict)
    """Least denominators of the errors of some of them."""


class Reference:
    """The unsplit model on one worker."""

    def __init__(self, plan: Plan, worker: WorkerModel, batches: Batches) -> None:
        self.blocks = build_blocks(plan, (b.name for b in plan.full_model.blocks), worker.dtype).to(worker.device)
        self.had_dropout = bool(turn_off_dropout(self.blocks))
        self.loss: Callable[[Any, Any], Tensor] = plan.model.loss
        self.model, self.main_output = plan.model, plan.model.main_output
        self.batches, self.trains = batches, worker.trains
        self.copies = None
        if worker.compute_dtype != worker.dtype:
            self.copies = ComputeCopies(self.blocks, worker.compute_dtype)
            self.loss = loss_in(worker.dtype, self.loss)
        self.max_norm, self.is_lossy = plan.spec.train.max_gradient_norm, plan.lossy is not None
        self.num_shards = worker.num_shards
        # Each replica has its own state that a model carries from one forward pass to the next, from its own samples.
        num_replicas = 1 if worker.normalizes_together else worker.batch_part[1]
        code = self.blocks.code if isinstance(self.blocks, UserBlocks | WholeModule) else self.blocks
        state = plan.full_model.state
        self.attributes = Attributes(code, state.attributes if state else ())
        self.replica_states = [self._state() for _ in range(num_replicas)]
        # If corresponding microbatches of all replicas form one shard, its samples are not adjacent in the batch.
        indices = torch.arange(plan.spec.train.global_batch_size, device=worker.device)
        if worker.normalizes_together:
            indices = indices.view(worker.batch_part[1], worker.num_microbatches, -1).transpose(0, 1).flatten()
        self.sample_indices = indices
        self.first_sample = 0
        """Index of its first sample in the global batch, from which dropout masks are drawn."""
        self.dropout_keys = DropoutKeys(self.blocks, plan.spec.train.seed, worker.device)
        self.generation = plan.spec.inference if plan.spec.generates else None
        self.lower_precision = LowerPrecision(self.blocks) if worker.dtype == torch.float64 else None
        """What computes in lower precision, known after the first step; None if all may."""
        self._is_watched = False

    def step(self, step: int, gathered: list[LocalTensor]) -> ReferenceStep:
        """Takes a step; ``gathered`` is what the split computed in it."""
        whole_batch = self.tensors(step, is_whole=True) if self.num_shards > 1 else None
        if not self.is_lossy:
            return ReferenceStep(self.tensors(step), whole_batch)
        norms = ShardGradientNorms(self.blocks)
        with norms.recorded():
            tensors = self.tensors(step)
        return ReferenceStep(tensors, whole_batch, norms.floors(tensors, LEARNING_RATE, self.max_norm is not None))

    def tensors(self, step: int, is_whole: bool = False) -> dict[str, Tensor]:
        """Returns the tensors of a step, by name.

        Args:
            is_whole: Whether to compute the whole batch at once, and leave parameters and buffers as they are.
        """
        self.blocks.zero_grad()
        if self.copies is not None:
            self.copies.clear()
        outputs, losses = [], []
        inputs, targets = self.batches.step_batch(step)
        weights, num_shards = self.batches.loss_weights(step), 1 if is_whole else self.num_shards
        if self.generation is not None:
            return self._generate(inputs, self.generation)
        if not self.trains:
            with torch.inference_mode():
                return {"outputs": torch.cat(self._inferred(pieces(inputs, num_shards), is_whole))}
        self.dropout_keys.begin_step(step, self.sample_indices + self.first_sample)
        for shard, indices in enumerate(self.sample_indices.chunk(num_shards)):
            self.dropout_keys.begin_piece(shard, num_shards)
            replica = shard * len(self.replica_states) // num_shards
            self._restore(self.replica_states[replica])
            x, y = selected(inputs, indices), selected(targets, indices)
            factor = 1.0 if weights is None else weights.factor(y)
            output, loss = self._forward(x, y, factor, is_whole) if is_whole else self._watched(x, y, factor)
            loss.backward()  # not divided here: a router's loss adds its gradient regardless of this factor
            outputs.append(self.main_output(output).detach())
            losses.append(loss.detach())
            if not is_whole:
                self.replica_states[replica] = self._state()
        tensors = {"outputs": torch.cat(outputs)[self.sample_indices.argsort()], "loss": torch.stack(losses).mean().reshape(1)}
        named = dict(self.blocks.named_parameters())
        with torch.no_grad():
            for name, parameter in named.items():
                if parameter.grad is None:  # frozen or unused: the split must have none either
                    continue
                parameter.grad /= num_shards
                tensors[f"gradient of {name}"] = parameter.grad.clone()
            if self.max_norm is not None:
                nn.utils.clip_grad_norm_(named.values(), self.max_norm)
            for name, parameter in named.items():
                updated = parameter.detach().clone()
                if parameter.grad is not None:
                    updated.sub_(parameter.grad, alpha=LEARNING_RATE)
                    if not is_whole:
                        parameter.copy_(updated)
                tensors[f"parameter {name}"] = updated
        return tensors

    def _watched(self, x: Any, y: Any, factor: float) -> tuple[Any, Tensor]:
        """Returns outputs and loss. The first call shows what computes in lower precision."""
        is_first, self._is_watched = not self._is_watched, True
        if is_first and self.lower_precision is not None:
            state = self._state()
            try:
                with self.lower_precision:
                    return self._forward(x, y, factor)
            except Exception:  # noqa: BLE001 - of code that does not run under a mode, as what compiles itself; or it raises again
                self.lower_precision = None
                self._restore(state)
        return self._forward(x, y, factor)

    def _forward(self, x: Any, y: Any, factor: float, is_whole: bool = False) -> tuple[Any, Tensor]:
        output = self._forward_checkpointed(x) if is_whole else self.blocks(x)
        return output, self.loss(output, y) * factor if factor else zero_of(self.main_output(output))

    def _inferred(self, shards: Sequence[Any], is_whole: bool) -> list[Tensor]:
        """Returns the outputs of the shards of a batch in inference."""
        outputs = []
        for shard, x in enumerate(shards):
            replica = shard * len(self.replica_states) // len(shards)
            self._restore(self.replica_states[replica])
            outputs.append(self.main_output(self.blocks(x)))
            if not is_whole:
                self.replica_states[replica] = self._state()
        return outputs

    def _state(self) -> tuple[list[Tensor], dict[str, Any]]:
        """Returns copies of what a forward pass may leave to the next: buffers, and attributes that change."""
        return [buffer.detach().clone() for buffer in self.blocks.buffers()], self.attributes.saved()

    def _restore(self, state: tuple[list[Tensor], dict[str, Any]]) -> None:
        buffers, attributes = state
        with torch.no_grad():
            for buffer, saved in zip(self.blocks.buffers(), buffers, strict=True):
                buffer.copy_(saved)
        self.attributes.restore(attributes)

    def _forward_checkpointed(self, x: Any) -> Any:
        """Computes the outputs with activation checkpointing, so that a whole batch takes less memory. Blocks with buffers are
        excepted: recomputed, they might read a buffer that their first forward pass wrote (spectral norm)."""

        def call(block: nn.Module, x: Any) -> Any:
            has_buffers = any(
                next(m.buffers(recurse=False), None) is not None for m in block.modules() if not isinstance(m, AnyBatchNorm)
            )
            return block(x) if self.copies is not None or has_buffers else checkpoint(block, x, use_reentrant=False)

        return self.blocks.through(call, x)

    def _generate(self, inputs: Tensor, options: Inference) -> dict[str, Tensor]:
        """Returns the tokens, and the logits that select them, from one pass over prompt and tokens without a cache."""
        prompts = inputs[:, : options.prompt_length]
        with torch.inference_mode():
            tokens = generate(self.model.decoder(self.blocks, options), prompts, options.num_new_tokens)
            outputs = self.model.scores(self.blocks, torch.cat([prompts, tokens[:, :-1]], dim=1))
        return {"tokens": tokens.double(), "outputs": outputs[:, options.prompt_length - 1 :]}

    def adopt(self, gathered: list[LocalTensor]) -> None:
        """Continues from the parameters of the split."""
        with torch.no_grad():
            for name, parameter in self.blocks.named_parameters():
                for part in (t for t in gathered if t.name == f"parameter {name}"):
                    parameter[part.slices] = part.values.to(parameter.device)


class ShardGradientNorms:
    """Norms of the gradients of the batch's shards, whose mean is the gradient of the reference."""

    def __init__(self, blocks: nn.Module) -> None:
        self.blocks = blocks
        self.norms: dict[str, list[float]] = {}

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Records the gradient norm of each backward pass, as the change in the accumulated ``parameter.grad``."""
        self.norms, previous = {}, dict[str, Tensor]()

        def record(name: str, parameter: Tensor) -> None:
            assert parameter.grad is not None
            gradient = parameter.grad.detach()
            self.norms.setdefault(name, []).append(float((gradient - previous[name] if name in previous else gradient).norm()))
            previous[name] = gradient.clone()

        hooks = [
            parameter.register_post_accumulate_grad_hook(lambda p, name=name: record(name, p))
            for name, parameter in self.blocks.named_parameters()
            if parameter.requires_grad
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def floors(self, tensors: dict[str, Tensor], learning_rate: float, is_clipped: bool) -> dict[str, float]:
        """Returns the least denominator of the error of each gradient and updated parameter: the mean norm over the shards. An
        update changes a parameter by the learning rate times its gradient, and clipping scales gradients by their global norm."""
        means = {name: sum(norms) / len(norms) for name, norms in self.norms.items()}
        gradients = {name: float(tensors[f"gradient of {name}"].norm()) for name in means}
        mean_norm, norm = (sqrt(sum(value**2 for value in values.values())) for values in (means, gradients))
        floors: dict[str, float] = {}
        for name, mean in means.items():
            clipped = mean_norm * gradients[name] / norm if is_clipped and norm else 0.0
            floors |= {f"gradient of {name}": mean, f"parameter {name}": learning_rate * (mean + clipped)}
        return floors
