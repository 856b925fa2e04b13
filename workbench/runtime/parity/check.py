"""Checks parity: whether the split computes what one worker computes.

Both take the same SGD steps from the same parameters on the same batches, in fp64 by default. Loss, outputs, gradients and
updated parameters are compared (tokens and their logits in generation): error = ‖difference‖ / max(‖reference‖, 10⁻³ × the
norm of all tensors of that kind), per tensor.

There are two references, both on one worker. The first computes the same replica × microbatch shards of the batch, one after
the other; it shows whether the implementation is correct. The second computes the whole batch at once, each step from the
parameters of the first; it shows whether the split is the same computation. With batch normalization, a router's statistics
or a contrastive loss it is not; the verdict is then ``equal per shard``.

Dropout whose masks depend on samples alone (``SampleDropout``) is on, with the same masks on both sides. All other dropout is
off, since its masks come from the random numbers of a worker and differ between workers. Other modules are in train mode, or
in eval mode for inference.

Finally the configured optimizer takes steps on fixed gradients (``optimizer.py``).

The verdict on a strategy that declares a difference (``plan/lossy.py``) is never ``equal``, and what it does not declare must
agree. If it changes gradients (compression), each step is compared alone: the reference continues from the parameters of the
split. Gradients and updated parameters may differ by the strategy's bound, if it has one, relative to the gradients that are
averaged. If replicas have parameters of their own (local SGD), each is compared with one worker that takes the steps of this
replica, and after an averaging with the mean of these.
"""

from __future__ import annotations

import math
import sys
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh

from workbench.plan.lossy import Lossy
from workbench.plan.parity import Verdict
from workbench.plan.plan import Plan
from workbench.runtime.batches import Batches
from workbench.runtime.build import DTYPES, build_worker
from workbench.runtime.clipping import clip_gradients
from workbench.runtime.optimizer import make_optimizer
from workbench.runtime.parity.dropout import turn_off_dropout, without_functional_dropout
from workbench.runtime.parity.errors import Errors, WorstError, compare, undeclared
from workbench.runtime.parity.optimizer import optimizer_errors
from workbench.runtime.parity.pieces import Piece, gather, gradient_pieces, parameter_pieces, result_pieces
from workbench.runtime.parity.reference import LEARNING_RATE, Reference
from workbench.runtime.parity.replicas import ReplicaReference, rename_by_replica
from workbench.runtime.step_loop import take_step
from workbench.spec.run_spec import Train
from workbench.strategies.worker_model import StepRecorder, WorkerModel

_GLOBAL_NORM_SHARE = {"fp64": 1e-3, "fp32": 1e-3, "bf16": 1.0}
_BF16_ROUNDOFF = 2**-8


def limit(precision: str, num_blocks: int) -> float:
    """Returns the largest error that counts as parity.

    In fp64 and fp32 the rounding of a few steps stays orders of magnitude below it, and a mistake lies above. bf16 rounds to 8
    bits, with a relative error of at most u = 2⁻⁸. The output of a block has gone through about four roundings that a split may
    do in another order (a partial sum, the sum, the bias, the residual). The error of an output is thus at most 4·B·u after B
    blocks, and that of a gradient, which passes them twice, 8·B·u. Cancellation magnifies it in single tensors, so errors of
    bf16 are relative to the norm of all tensors of a kind.
    """
    return {"fp64": 1e-9, "fp32": 1e-3, "bf16": 8 * num_blocks * _BF16_ROUNDOFF}[precision]


@dataclass(frozen=True)
class ParityReport:
    """Verdict of a parity check, with the largest error and its tensor."""

    ok: bool | None
    """Whether split and reference agree, on the whole batch or on each shard; None if they differ as declared, within the
    allowed error."""

    max_error: float
    """Largest error against one worker that computes the same shards, or the whole batch if only that agrees."""

    tensor: str
    num_steps: int
    precision: str
    allowed: float | None
    """Largest error of this tensor that is not a mistake; None if the strategy states no bound."""

    on_purpose: str | None
    """The declared difference between split and one worker, as a clause; None if there is none."""

    verdict: Verdict
    whole_batch_error: float | None
    """Largest error against one worker that computes the whole batch at once; None if replicas have parameters of their own."""

    whole_batch_tensor: str | None
    cause: str | None = None
    """Why the whole batch and its shards give different results; None if they do not, or if the split is wrong."""

    remedy: str | None = None
    """Change to the model that removes this difference."""

    is_without_dropout: bool = False
    """Whether dropout with masks that may depend on the split was turned off."""

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields of the parity event. JSON has no infinity: an infinite error becomes None."""
        errors = {"max_error": self.max_error, "whole_batch_error": self.whole_batch_error}
        return {
            **asdict(self),
            **{k: error if error is not None and math.isfinite(error) else None for k, error in errors.items()},
        }


def check_parity(
    plan: Plan,
    rank: int,
    mesh: DeviceMesh | None,
    recorder: StepRecorder,
    device: torch.device,
    control: Any,
    num_steps: int,
) -> ParityReport | None:
    """Takes the steps with the split and with the references. Returns the report on rank 0 and None on other ranks.

    Args:
        control: Process group on which pieces are gathered.
        num_steps: Number of steps, raised to the minimum that a lossy strategy declares.
    """
    with without_functional_dropout(plan.model) as functions:
        report = _check(plan, rank, mesh, recorder, device, control, num_steps)
    return replace(report, is_without_dropout=True) if report and functions and functions.is_called else report


def _check(
    plan: Plan,
    rank: int,
    mesh: DeviceMesh | None,
    recorder: StepRecorder,
    device: torch.device,
    control: Any,
    num_steps: int,
) -> ParityReport | None:
    precision, lossy = plan.spec.measure.parity_precision, plan.lossy
    dtype = DTYPES[precision]
    is_mixed = precision == "bf16" and plan.spec.train.mixed_precision != "none"
    dtype, compute_dtype = (torch.float32 if is_mixed else dtype), dtype
    worker = build_worker(plan, rank, mesh, recorder, device, dtype, compute_dtype)
    turn_off_dropout(worker.blocks)
    worker.keep_outputs = True
    optimizer = make_optimizer(worker, Train(optimizer="sgd", learning_rate=LEARNING_RATE))
    batches = Batches(plan, device, dtype)
    max_norm, share = plan.spec.train.max_gradient_norm, _GLOBAL_NORM_SHARE[precision]
    rounding = limit(precision, len(plan.summary.blocks))
    reference = make_reference(plan, worker, batches) if rank == 0 else None
    shard_errors, batch_errors, shards_to_batch = WorstError(), Errors(), Errors()
    has_local_parameters = lossy is not None and lossy.changes == "parameters"
    if lossy is not None:
        num_steps = max(num_steps, lossy.num_parity_steps)
    for step in range(num_steps):
        inputs, targets = batches.worker_batch(step, worker)
        worker.begin_step(step)
        pieces = _split_step(worker, optimizer, max_norm, inputs, targets)
        if has_local_parameters:
            pieces = rename_by_replica(pieces, worker.batch_part[0])
        gathered = gather(pieces, control, plan.num_workers, rank)
        if reference is not None:
            batch_tensors = reference.whole_batch(step)
            step_batch_errors = None if batch_tensors is None else compare(batch_tensors, gathered, share)
            tensors, floors = reference.step(step, gathered)
            errors = compare(tensors, gathered, share, floors)
            shard_errors.add(errors, partial(allowed, lossy, step, rounding))
            equals_batch = batch_errors.add(errors if step_batch_errors is None else step_batch_errors, rounding)
            if batch_tensors is not None and lossy is not None:
                # The declared difference hides whether sharding alone causes one: compare the two references.
                shards = [Piece(name, (0,) * tensor.dim(), tensor) for name, tensor in tensors.items()]
                shards_to_batch.add(compare(batch_tensors, shards, share), rounding)
            equals_batch_only = lossy is None and equals_batch and any(not error <= rounding for error in errors.values())
            if (lossy is not None and lossy.limit != 0) or equals_batch_only:
                reference.adopt(gathered)
    if worker.trains:
        update_precision = "fp32" if is_mixed else precision
        update_limit = limit(update_precision, len(plan.summary.blocks))
        update_errors = optimizer_errors(
            plan.spec.train,
            worker,
            lambda pieces: gather(pieces, control, plan.num_workers, rank),
            rank == 0,
            _GLOBAL_NORM_SHARE[update_precision],
            has_local_parameters,
        )
        shard_errors.add(update_errors, lambda name: update_limit)
        batch_errors.add(update_errors, update_limit)
    if reference is None:
        return None
    verdict: Verdict = "wrong" if shard_errors.is_wrong else "lossy" if lossy else "equal per shard"
    # The bound of bf16 is wider than the difference that most batch norms and routers make between shards and the batch.
    is_hidden = precision == "bf16" and worker.trains and worker.num_pieces > 1 and plan.model.depends_on_batch
    if lossy is None and not batch_errors.wrong and not (is_hidden and not shard_errors.is_wrong):
        verdict = "equal"
        if shard_errors.is_wrong:  # workers compute their shards together, as one worker computes the whole batch
            shard_errors = WorstError(*batch_errors.worst, rounding)
    differing = {"equal per shard": batch_errors.wrong, "lossy": shards_to_batch.wrong}.get(verdict, set())
    dependence = None
    if differing or verdict == "equal per shard":
        dependence = plan.model.batch_dependence or undeclared(differing)
    return ParityReport(
        {"wrong": False, "lossy": None}.get(verdict, True),
        shard_errors.error,
        shard_errors.tensor,
        num_steps,
        precision,
        shard_errors.allowed if shard_errors.allowed < sys.float_info.max else None,
        lossy.sentence if lossy else None,
        verdict,
        None if has_local_parameters else batch_errors.worst[0],
        None if has_local_parameters else batch_errors.worst[1],
        cause=dependence.cause if dependence else None,
        remedy=dependence.remedy if dependence else None,
        is_without_dropout=worker.trains and reference.had_dropout,
    )


def _split_step(
    worker: WorkerModel, optimizer: torch.optim.Optimizer | None, max_norm: float | None, inputs: Any, targets: Any
) -> list[Piece]:
    """Takes one step with the split; returns this worker's pieces of results, gradients and updated parameters."""
    if not worker.trains:
        return result_pieces(worker, take_step(worker, None, inputs, targets))
    if optimizer is not None:
        optimizer.zero_grad()
    pieces = result_pieces(worker, worker.compute(inputs, targets)) + gradient_pieces(worker)
    if max_norm is not None:
        clip_gradients(worker, max_norm)
    if optimizer is not None:
        optimizer.step()
    return pieces + parameter_pieces(worker)


def make_reference(plan: Plan, worker: WorkerModel, batches: Batches) -> Reference | ReplicaReference:
    """Returns the unsplit model on one worker, once per replica if replicas have parameters of their own."""
    lossy = plan.lossy
    if lossy is None or lossy.changes == "gradients":
        return Reference(plan, worker, batches)
    return ReplicaReference([Reference(plan, worker, batches) for _ in range(worker.batch_part[1])], lossy)


def allowed(lossy: Lossy | None, step: int, rounding: float, tensor: str) -> float:
    """Returns the largest error of a tensor that is not a mistake, at a step."""
    if lossy is None or step < lossy.num_exact_steps or tensor in ("loss", "tokens", "outputs"):
        return rounding
    if lossy.changes == "parameters":
        return rounding + (lossy.limit or 0.0) * (lossy.averages(step) and tensor.startswith("parameter "))
    return sys.float_info.max if lossy.limit is None else rounding + lossy.limit  # any finite error
