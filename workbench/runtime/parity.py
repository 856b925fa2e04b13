"""Parity: does the split compute what one worker computes?

Both take the same SGD steps from the same parameters on the same batches, in fp64 unless told otherwise. Loss, outputs,
gradients and updated parameters are compared (of a generation the tokens and their logits): error = ‖difference‖ /
max(‖reference‖, 10⁻³ × the norm of all tensors of that kind), per tensor.

There are two references, both on one worker. The first works through the same replica × microbatch shards of the batch, one
after the other: it tells whether the implementation is right. The second, each step from the parameters of the first,
computes the whole batch at once: it tells whether the split is the same computation. With batch normalization, a router's
statistics or a contrastive loss it is not; then the verdict is ``equal per shard``.

Dropout whose masks depend on samples alone (``SampleDropout``) is on, with the same masks on both sides. All other dropout is
off: a mask drawn from a worker's random numbers is another one on every worker. Everything else is in train mode, in inference
in eval mode.

Then the optimizer as configured takes steps on gradients that are given (``optimizer_parity``).

A strategy that declares what it changes (``plan/lossy.py``) is never found equal, and everything else must be. Where it
changes gradients (compression), each step is compared by itself, the one worker going on from the split's parameters: gradients
and updated parameters may differ by as much as its formula says, if it has one, measured by the gradients that are averaged.
Where replicas have parameters of their own (local SGD), each is compared with one worker that takes this replica's steps, and
after an averaging with the mean of these.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from workbench.models.dropout_modules import DropoutKeys
from workbench.models.kv_cache import generate
from workbench.plan.lossy import Lossy
from workbench.plan.parity import Verdict
from workbench.plan.plan import Plan
from workbench.runtime.batches import Batches
from workbench.runtime.build import DTYPES, build_blocks, build_worker, local
from workbench.runtime.clipping import clip_gradients
from workbench.runtime.dropout import turn_off_dropout, without_functional_dropout
from workbench.runtime.mixed_precision import ComputeCopies, loss_in
from workbench.runtime.optimizer import make_optimizer
from workbench.runtime.parity_errors import Errors, undeclared
from workbench.runtime.replicas import Addends, ReplicaReference, Worst, named_by_replica
from workbench.runtime.step_loop import take_step
from workbench.spec.run_spec import Inference, Train
from workbench.strategies.worker_model import Records, StepResult, WorkerModel
from workbench.torch_private.dtensor import local_shape_and_offset
from workbench.torch_private.modules import AnyBatchNorm

LEARNING_RATE = 0.1
"""Of the SGD steps; SGD because Adam turns the rounding noise of a gradient that is truly zero into a full step."""

_GLOBAL_NORM_SHARE = {"fp64": 1e-3, "fp32": 1e-3, "bf16": 1.0}
_BF16_ROUNDOFF = 2**-8


def limit(precision: str, num_blocks: int) -> float:
    """The largest error that is still parity.

    fp64, fp32: rounding over a few steps stays orders of magnitude below, a mistake lies above. bf16 rounds to 8 bits, a
    relative error of u = 2⁻⁸ at most. What a block hands on has gone through about four roundings that a split may do in
    another order (a partial sum, the sum, the bias, the residual), so an output is off by at most 4·B·u after B blocks, and
    a gradient, which goes all the way back, by twice that. Sums that cancel magnify it for single tensors, so all tensors of
    a kind are judged by the norm of all of them.
    """
    return {"fp64": 1e-9, "fp32": 1e-3, "bf16": 8 * num_blocks * _BF16_ROUNDOFF}[precision]


@dataclass(frozen=True)
class Piece:
    """A worker's part of a tensor of the unsplit model."""

    name: str
    offset: tuple[int, ...]
    values: Tensor

    def __reduce__(self) -> tuple[Any, ...]:
        """As plain bytes: torch pickles each tensor as a file of its own, which was half of a small check's time."""
        values = self.values.detach().contiguous()
        data = values.reshape(-1).view(torch.uint8).numpy()
        return _unpickled, (self.name, self.offset, data, values.dtype, tuple(values.shape))


@dataclass(frozen=True)
class ParityReport:
    """The largest error found, and where."""

    ok: bool | None
    """Whether both compute the same, of the whole batch or of each shard; None: they differ on purpose, and by no more than
    is allowed."""

    max_error: float
    """Against one worker that computes the same shards; where only the whole batch agrees, against that."""

    tensor: str
    num_steps: int
    precision: str
    allowed: float | None
    """The largest error of this tensor that is not a mistake; None: no formula says."""

    on_purpose: str | None
    """What the split does otherwise than one worker on purpose, a clause; None: nothing."""

    verdict: Verdict
    whole_batch_error: float | None
    """Against one worker that computes the whole batch at once; None: replicas have parameters of their own."""

    whole_batch_tensor: str | None
    cause: str | None = None
    """Why the whole batch gives something else than its shards; None: it does not, or the split is wrong."""

    remedy: str | None = None
    """What makes both the same."""

    is_without_dropout: bool = False
    """Whether dropout was turned off whose masks may depend on the split."""

    def as_dict(self) -> dict[str, Any]:
        """As the event has it; an infinite error is None in JSON and not ok."""
        errors = {"max_error": self.max_error, "whole_batch_error": self.whole_batch_error}
        return {
            **asdict(self),
            **{k: error if error is not None and math.isfinite(error) else None for k, error in errors.items()},
        }


def check_parity(
    plan: Plan,
    rank: int,
    mesh: DeviceMesh | None,
    recorder: Records,
    device: torch.device,
    control: Any,
    num_steps: int,
) -> ParityReport | None:
    """Takes the steps split and unsplit; the report on rank 0, None elsewhere."""
    with without_functional_dropout(plan.model) as functions:
        report = _check(plan, rank, mesh, recorder, device, control, num_steps)
    return replace(report, is_without_dropout=True) if report and functions and functions.is_called else report


def _check(
    plan: Plan,
    rank: int,
    mesh: DeviceMesh | None,
    recorder: Records,
    device: torch.device,
    control: Any,
    num_steps: int,
) -> ParityReport | None:
    precision = plan.spec.measure.parity_precision
    dtype = DTYPES[precision]
    is_mixed = precision == "bf16" and plan.spec.train.mixed_precision != "none"
    dtype, compute_dtype = (torch.float32 if is_mixed else dtype), dtype
    worker = build_worker(plan, rank, mesh, recorder, device, dtype, compute_dtype)
    turn_off_dropout(worker.blocks)
    worker.keep_outputs = True
    optimizer = make_optimizer(worker, Train(optimizer="sgd", learning_rate=LEARNING_RATE))
    batches = Batches(plan, device, dtype)
    max_norm, of_shards, of_whole, between = plan.spec.train.max_gradient_norm, Worst(), Errors(), Errors()
    rounding, lossy = limit(precision, len(plan.summary.blocks)), plan.lossy
    reference = make_reference(plan, worker, batches) if rank == 0 else None
    if lossy is not None:
        num_steps = max(num_steps, lossy.num_parity_steps)
    for step in range(num_steps):
        inputs, targets = batches.worker_batch(step, worker)
        worker.begin_step(step)
        if worker.trains:
            if optimizer is not None:
                optimizer.zero_grad()
            pieces = of_result(worker, worker.compute(inputs, targets)) + gradients(worker)
            if max_norm is not None:
                clip_gradients(worker, max_norm)
            if optimizer is not None:
                optimizer.step()
            pieces += parameters(worker)
        else:
            pieces = of_result(worker, take_step(worker, None, inputs, targets))
        if lossy is not None and lossy.changes == "parameters":
            pieces = named_by_replica(pieces, worker.batch_part[0])
        gathered = _gather(pieces, control, plan.num_workers, rank)
        if reference is not None:
            share = _GLOBAL_NORM_SHARE[precision]
            whole = reference.whole_batch(step)
            of_batch = None if whole is None else compare(whole, gathered, share)
            tensors, floors = reference.step(step, gathered)
            errors = compare(tensors, gathered, share, floors)
            of_shards.add(errors, partial(allowed, lossy, step, rounding))
            is_same = of_whole.add(errors if of_batch is None else of_batch, rounding)
            if whole is not None and lossy is not None:  # hides whether shards alone make a difference: ask the references
                between.add(compare(whole, [Piece(n, (0,) * t.dim(), t) for n, t in tensors.items()], share), rounding)
            is_other = lossy is None and is_same and any(not error <= rounding for error in errors.values())
            if (lossy is not None and lossy.limit != 0) or is_other:
                reference.adopt(gathered)
    if worker.trains:
        from workbench.runtime.optimizer_parity import optimizer_errors  # compares with what is in this file

        of_update = "fp32" if is_mixed else precision
        of_optimizer = optimizer_errors(
            plan.spec.train,
            worker,
            lambda pieces: _gather(pieces, control, plan.num_workers, rank),
            rank == 0,
            _GLOBAL_NORM_SHARE[of_update],
            has_local_parameters=lossy is not None and lossy.changes == "parameters",
        )
        of_shards.add(of_optimizer, lambda name: limit(of_update, len(plan.summary.blocks)))
        of_whole.add(of_optimizer, limit(of_update, len(plan.summary.blocks)))
    if reference is None:
        return None
    verdict: Verdict = "wrong" if of_shards.is_wrong else "lossy" if lossy else "equal per shard"
    # The bound of bf16 is wider than what most batch norms and routers make of shards.
    is_hidden = precision == "bf16" and worker.trains and worker.num_pieces > 1 and plan.model.depends_on_batch
    if lossy is None and not of_whole.wrong and not (is_hidden and not of_shards.is_wrong):
        verdict = "equal"
        if of_shards.is_wrong:  # shards that are computed together, as one worker computes the whole batch
            of_shards = Worst(*of_whole.worst, rounding)
    unlike = {"equal per shard": of_whole.wrong, "lossy": between.wrong}.get(verdict, set())
    why = None
    if unlike or verdict == "equal per shard":
        why = plan.model.batch_dependence or undeclared(unlike)
    has_local_parameters = lossy is not None and lossy.changes == "parameters"
    return ParityReport(
        {"wrong": False, "lossy": None}.get(verdict, True),
        of_shards.error,
        of_shards.tensor,
        num_steps,
        precision,
        of_shards.allowed if of_shards.allowed < sys.float_info.max else None,
        lossy.sentence if lossy else None,
        verdict,
        None if has_local_parameters else of_whole.worst[0],
        None if has_local_parameters else of_whole.worst[1],
        cause=why.cause if why else None,
        remedy=why.remedy if why else None,
        is_without_dropout=worker.trains and reference.had_dropout,
    )


def make_reference(plan: Plan, worker: WorkerModel, batches: Batches) -> Reference | ReplicaReference:
    """One worker that computes the whole batch or, where replicas have parameters of their own, what each of them does."""
    lossy = plan.lossy
    if lossy is None or lossy.changes == "gradients":
        return Reference(plan, worker, batches)
    return ReplicaReference([Reference(plan, worker, batches) for _ in range(worker.batch_part[1])], lossy)


def allowed(lossy: Lossy | None, step: int, rounding: float, tensor: str) -> float:
    """The largest error of a tensor that is no mistake."""
    if lossy is None or step < lossy.num_exact_steps or tensor in ("loss", "tokens", "outputs"):
        return rounding
    if lossy.changes == "parameters":
        return rounding + (lossy.limit or 0.0) * (lossy.averages(step) and tensor.startswith("parameter "))
    return sys.float_info.max if lossy.limit is None else rounding + lossy.limit  # finite, at least


class Reference:
    """The unsplit model on one worker."""

    def __init__(self, plan: Plan, worker: WorkerModel, batches: Batches) -> None:
        self.blocks = build_blocks(plan, (b.name for b in plan.summary.blocks), worker.dtype).to(worker.device)
        self.had_dropout = bool(turn_off_dropout(self.blocks))
        self.loss: Callable[[Tensor, Tensor], Tensor] = plan.model.loss
        self.batches, self.trains = batches, worker.trains
        self.copies = None
        if worker.compute_dtype != worker.dtype:
            self.copies = ComputeCopies(self.blocks, worker.compute_dtype)
            self.loss = loss_in(worker.dtype, self.loss)
        self.max_norm, self.is_lossy = plan.spec.train.max_gradient_norm, plan.lossy is not None
        self.num_chunks = worker.num_pieces
        # What a model keeps from one forward pass to the next, each replica keeps of its own samples.
        num_replicas = 1 if worker.normalizes_together else worker.batch_part[1]
        self.buffers_of_replicas = [self._buffers() for _ in range(num_replicas)]
        # Of corresponding microbatches of all replicas, where these are one piece, the samples lie apart in the batch.
        places = torch.arange(plan.spec.train.global_batch_size, device=worker.device)
        if worker.normalizes_together:
            places = places.view(worker.batch_part[1], worker.num_microbatches, -1).transpose(0, 1).flatten()
        self.places = places
        self.first_sample = 0
        """Of its batches in the global batch, by which masks of dropout are drawn."""
        self.dropout_keys = DropoutKeys(self.blocks, plan.spec.train.seed, worker.device)
        self.generation = plan.spec.inference if plan.spec.generates else None

    def whole_batch(self, step: int) -> dict[str, Tensor] | None:
        """As ``tensors``, of the whole batch in one piece; leaves the model as it is. None where there is one piece anyway."""
        if self.num_chunks == 1:
            return None
        return self.tensors(step, is_whole=True)

    def step(self, step: int, gathered: list[Piece]) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Every tensor that is compared, by name; and by which norm, at least, the error of some is divided."""
        if not self.is_lossy:
            return self.tensors(step), {}
        addends = Addends(self.blocks)
        with addends.recorded():
            tensors = self.tensors(step)
        return tensors, addends.floors(tensors, LEARNING_RATE, self.max_norm is not None)

    def tensors(self, step: int, is_whole: bool = False) -> dict[str, Tensor]:
        """Every tensor that is compared, by name."""
        self.blocks.zero_grad()
        if self.copies is not None:
            self.copies.clear()
        outputs, losses = [], []
        inputs, targets = self.batches.step_batch(step)
        weights, num_chunks = self.batches.loss_weights(step), 1 if is_whole else self.num_chunks
        if self.generation is not None:
            return self._generate(inputs, self.generation)
        if not self.trains:
            with torch.inference_mode():
                return {"outputs": torch.cat([self.blocks(x) for x in inputs.chunk(num_chunks)])}
        self.dropout_keys.begin_step(step, self.places + self.first_sample)
        for chunk, place in enumerate(self.places.chunk(num_chunks)):
            self.dropout_keys.begin_piece(chunk, num_chunks)
            replica = chunk * len(self.buffers_of_replicas) // num_chunks
            with torch.no_grad():
                for buffer, kept in zip(self.blocks.buffers(), self.buffers_of_replicas[replica], strict=True):
                    buffer.copy_(kept)
            x, y = inputs[place], targets[place]
            output = self._recomputed(x) if is_whole else self.blocks(x)
            factor = 1.0 if weights is None else weights.factor(y)
            loss = self.loss(output, y) * factor if factor else output.sum() * 0
            loss.backward()  # not divided: a router's loss adds its gradient whatever this one is multiplied by
            outputs.append(output.detach())
            losses.append(loss.detach())
            if not is_whole:
                self.buffers_of_replicas[replica] = self._buffers()
        tensors = {"outputs": torch.cat(outputs)[self.places.argsort()], "loss": torch.stack(losses).mean().reshape(1)}
        named = dict(self.blocks.named_parameters())
        with torch.no_grad():
            for name, parameter in named.items():
                if parameter.grad is None:  # frozen, or not used: then the split must have none either
                    continue
                parameter.grad /= num_chunks
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

    def _buffers(self) -> list[Tensor]:
        return [buffer.detach().clone() for buffer in self.blocks.buffers()]

    def _recomputed(self, x: Tensor) -> Tensor:
        """The outputs, of activations that backward computes again, so that a whole batch takes less memory; but of blocks that
        may then read a buffer that they wrote (spectral norm)."""
        for block in self.blocks:
            keeps = any(
                next(m.buffers(recurse=False), None) is not None for m in block.modules() if not isinstance(m, AnyBatchNorm)
            )
            x = block(x) if self.copies is not None or keeps else checkpoint(block, x, use_reentrant=False)
        return x

    def _generate(self, inputs: Tensor, options: Inference) -> dict[str, Tensor]:
        """The tokens, and the logits that they are chosen by: those of one pass over prompt and tokens, without a cache."""
        prompts = inputs[:, : options.prompt_length]
        with torch.inference_mode():
            tokens = generate(self.blocks, prompts, options.num_new_tokens)
            outputs = self.blocks(torch.cat([prompts, tokens[:, :-1]], dim=1))[:, options.prompt_length - 1 :]
        return {"tokens": tokens.double(), "outputs": outputs}

    def adopt(self, gathered: list[Piece]) -> None:
        """Goes on from the parameters that the split has."""
        with torch.no_grad():
            for name, parameter in self.blocks.named_parameters():
                for piece in (p for p in gathered if p.name == f"parameter {name}"):
                    parameter[place(piece)] = piece.values.to(parameter.device)


def gradients(worker: WorkerModel) -> list[Piece]:
    """This worker's gradients; a parameter without one has no piece."""
    named = [(name, p.grad) for name, p in worker.named_parameters() if p.grad is not None]
    return [Piece(f"gradient of {name}", offset(grad), local(grad).clone()) for name, grad in named]


def parameters(worker: WorkerModel) -> list[Piece]:
    """This worker's parameters."""
    return [Piece(f"parameter {name}", offset(p), local(p).clone()) for name, p in worker.named_parameters()]


def of_result(worker: WorkerModel, result: StepResult) -> list[Piece]:
    """Outputs at their place in the global batch, the sequence and the classes, and the loss at its part's in the mean."""
    index, count = worker.batch_part
    first_position = 0
    pieces = []
    if result.outputs is not None:
        offset = [0] * result.outputs.dim()
        offset[0] = index * len(result.outputs)
        offset[-1] += worker.classes_part[0] * result.outputs.shape[-1]
        pieces.append(Piece("outputs", tuple(offset), result.outputs))
    if result.tokens is not None:
        pieces.append(Piece("tokens", (index * len(result.tokens), 0), result.tokens.double()))
    if (runs := worker.sequence_part) is not None:
        assert worker.summary.sequence_length is not None
        first_position, count = runs[0].start, count * worker.summary.sequence_length // sum(map(len, runs))
        pieces = [
            Piece(whole.name, (whole.offset[0], run.start, *whole.offset[2:]), values)
            for whole in pieces
            for run, values in zip(runs, whole.values.split([len(run) for run in runs], dim=1), strict=True)
        ]
    if result.loss is not None:
        pieces.append(Piece("loss", (index, first_position), result.loss.reshape(1) / count))
    return pieces


def compare(
    reference: dict[str, Tensor], gathered: list[Piece], global_norm_share: float, floors: Mapping[str, float] = {}
) -> dict[str, float]:
    """The error of each tensor by name. A tensor that the pieces do not cover is infinitely wrong, and so is a gradient that
    one side alone has.

    ``floors``: of some tensors the norm by which the difference is divided at least. Pieces at the same place are replicas: the
    worst counts. The parts of the loss are added up.
    """
    by_name: dict[str, list[Piece]] = {}
    for piece in gathered:
        by_name.setdefault(piece.name, []).append(piece)
    errors: dict[str, float] = {}
    for kind in ("loss", "tokens", "outputs", "gradient of ", "parameter "):
        names = [name for name in reference if name.startswith(kind)]
        global_norm = math.sqrt(sum(float(reference[name].norm()) ** 2 for name in names))
        for name in names:
            difference = _difference(reference[name], by_name.get(name, []), is_sum=name == "loss")
            scale = max(float(reference[name].norm()), global_norm_share * global_norm, floors.get(name, 0.0))
            error = difference / scale if scale else difference
            errors[name] = math.inf if math.isnan(error) else error
    errors.update({name: math.inf for name in by_name if name.startswith("gradient of ") and name not in reference})
    return errors


def _difference(reference: Tensor, pieces: list[Piece], is_sum: bool) -> float:
    """‖split − reference‖ over a whole tensor."""
    if is_sum:
        parts: dict[tuple[int, ...], Tensor] = {}
        apart = 0.0  # workers that have the same part must agree on it
        for piece in pieces:
            values = piece.values.to(reference.device)
            apart += float((values - parts.setdefault(piece.offset, values)).norm())
        return apart + float((sum(parts.values(), torch.zeros_like(reference)) - reference).norm())
    squares: dict[tuple[int, ...], float] = {}
    covered = torch.zeros(reference.shape, dtype=torch.bool)
    for piece in pieces:
        at = place(piece)
        if reference[at].shape != piece.values.shape:
            return math.inf
        square = float((piece.values.to(reference.device) - reference[at]).norm()) ** 2
        if math.isnan(square):  # which max() would drop
            return math.inf
        squares[piece.offset] = max(squares.get(piece.offset, 0.0), square)
        covered[at] = True
    return math.sqrt(sum(squares.values())) if bool(covered.all()) else math.inf


def place(piece: Piece) -> tuple[slice, ...]:
    """Where a piece lies in the whole tensor."""
    return tuple(slice(o, o + s) for o, s in zip(piece.offset, piece.values.shape, strict=True))


def offset(tensor: Tensor) -> tuple[int, ...]:
    """Where this worker's part of a tensor begins in the whole one."""
    if isinstance(tensor, DTensor):
        return tuple(local_shape_and_offset(tensor.shape, tensor.device_mesh, tensor.placements)[1])
    return (0,) * tensor.dim()


def _unpickled(name: str, offset: tuple[int, ...], data: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> Piece:
    return Piece(name, offset, torch.from_numpy(data).view(dtype).reshape(shape))


def _gather(pieces: list[Piece], control: Any, num_workers: int, rank: int) -> list[Piece]:
    """All workers' pieces on rank 0."""
    pieces = [Piece(p.name, p.offset, p.values.cpu()) for p in pieces]
    if num_workers == 1:
        return pieces
    gathered: list[Any] | None = [None] * num_workers if rank == 0 else None
    dist.gather_object(pieces, gathered, dst=0, group=control)
    return [piece for part in gathered or [] for piece in part]
