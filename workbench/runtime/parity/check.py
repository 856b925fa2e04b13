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

If the split differs, one worker is compared with itself after its parameters have changed by some roundings. If it differs as
much, the model amplifies rounding (``amplification.py``), and the verdict is ``undecided``.

Finally the configured optimizer takes steps on fixed gradients (``optimizer.py``).

The verdict on a strategy that declares a difference (``plan/lossy.py``) is never ``equal``, and what it does not declare must
agree. If it changes gradients (compression), each step is compared alone: the reference continues from the parameters of the
split. Gradients and updated parameters may differ by the strategy's bound, if it has one, relative to the gradients that are
averaged. If replicas have parameters of their own (local SGD), each is compared with one worker that takes the steps of this
replica, and after an averaging with the mean of these.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh

from workbench.plan.plan import Plan
from workbench.runtime.batches import Batches
from workbench.runtime.build import DTYPES, build_worker
from workbench.runtime.parity.amplification import explains, movements
from workbench.runtime.parity.comparison import Comparison
from workbench.runtime.parity.dropout import fix_draws, without_functional_dropout
from workbench.runtime.parity.reference import Reference
from workbench.runtime.parity.replicas import ReplicaReference, has_local_parameters
from workbench.runtime.parity.report import ParityReport, parity_report
from workbench.runtime.parity.split import Split
from workbench.runtime.parity.tolerance import tolerance
from workbench.strategies.worker_model import StepRecorder, WorkerModel


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
        control: Process group on which local tensors are gathered.
        num_steps: Number of steps, raised to the minimum that a lossy strategy declares.
    """
    if plan.lossy is not None:
        num_steps = max(num_steps, plan.lossy.num_parity_steps)
    precision = plan.spec.measure.parity_precision
    is_mixed = precision == "bf16" and plan.spec.train.mixed_precision != "none"
    parameter_precision = "fp32" if is_mixed else precision
    with without_functional_dropout(plan.model) as functions:
        worker = build_worker(plan, rank, mesh, recorder, device, DTYPES[parameter_precision], DTYPES[precision])
        fix_draws([worker.module, *worker.stages], functions)
        batches = Batches(plan, device, worker.dtype)
        split = Split(plan, worker, batches, control)
        num_blocks = len(plan.full_model.blocks)
        # The tolerance of bf16 is wider than the difference that most batch norms and routers make between shards and the batch.
        hides_dependence = precision == "bf16" and worker.trains and worker.num_shards > 1 and plan.model.depends_on_batch
        comparison = Comparison(plan.lossy, tolerance(precision, num_blocks), hides_dependence)
        reference = make_reference(plan, worker, batches) if rank == 0 else None
        references = reference.replicas if isinstance(reference, ReplicaReference) else [reference] if reference else []
        fix_draws([each.blocks for each in references], functions)
        for step in range(num_steps):
            gathered = split.step(step)
            if reference is None:
                continue
            computed = reference.step(step, gathered)
            if reference.lower_precision is not None:
                comparison.lower_precision = reference.lower_precision.cause
            if comparison.add_step(step, computed, gathered):
                reference.adopt(gathered)
        if worker.trains:
            of_parameters = tolerance(parameter_precision, num_blocks)
            comparison.add_optimizer(split.optimizer_errors(of_parameters.global_norm_share), of_parameters.rounding)
    if reference is None:
        return None
    if comparison.verdict == "wrong" and isinstance(reference, Reference) and plan.lossy is None and precision == "fp64":
        comparison.is_amplified = _is_amplified(plan, worker, batches, comparison)
    is_without_dropout = (worker.trains and reference.had_dropout) or (functions is not None and functions.is_called)
    return parity_report(plan, comparison, num_steps, is_without_dropout)


def _is_amplified(plan: Plan, worker: WorkerModel, batches: Batches, comparison: Comparison) -> bool:
    """Whether the model amplifies rounding to the errors that were found."""
    with without_functional_dropout(plan.model) as functions:
        first, again, perturbed = (Reference(plan, worker, batches) for _ in range(3))
        fix_draws([each.blocks for each in (first, again, perturbed)], functions)
        share, num_steps = comparison.tolerance.global_norm_share, len(comparison.exceeding)
        return explains(movements((first, again, perturbed), num_steps, share), comparison.exceeding)


def make_reference(plan: Plan, worker: WorkerModel, batches: Batches) -> Reference | ReplicaReference:
    """Returns the unsplit model on one worker, once per replica if replicas have parameters of their own."""
    lossy = plan.lossy
    if lossy is None or not has_local_parameters(lossy):
        return Reference(plan, worker, batches)
    return ReplicaReference([Reference(plan, worker, batches) for _ in range(worker.batch_part[1])], lossy)
