"""Splits with deliberate mistakes, to test the conformance suite."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from workbench.plan.plan import Plan
from workbench.strategies.worker_model import StepResult


def _buckets_by(planned: Plan, reduced: Callable[[torch.Tensor, Any], Any]) -> None:
    """Makes data parallelism reduce its buckets so, given a bucket and the group."""
    (strategy,) = planned.strategies
    right = type(strategy).finish

    def wrong(worker: Any, mesh: Any) -> None:
        right(strategy, worker, mesh)

        def hook(state: Any, bucket: Any) -> Any:
            return reduced(bucket.buffer(), mesh.get_group("data"))

        # torch checks the hook's annotations, which are strings in this file
        hook.__annotations__ = {"bucket": dist.GradBucket, "return": torch.futures.Future[torch.Tensor]}  # type: ignore[attr-defined]
        worker.module.register_comm_hook(None, hook)

    object.__setattr__(strategy, "finish", wrong)


def _gradients_summed(planned: Plan) -> None:
    """Data parallelism that sums gradients instead of averaging them."""

    def summed(bucket: torch.Tensor, group: Any) -> Any:
        work: Any = dist.all_reduce(bucket, group=group, async_op=True)
        return work.get_future().then(lambda f: f.value()[0])

    _buckets_by(planned, summed)


def _gradients_kept(planned: Plan) -> None:
    """Data parallelism without the all-reduce: each worker keeps its own gradients."""

    def kept(bucket: torch.Tensor, group: Any) -> Any:
        future: Any = torch.futures.Future()
        future.set_result(bucket)
        return future

    _buckets_by(planned, kept)


def _doubled(planned: Plan) -> None:
    """Data parallelism whose averaged gradients are doubled, however they are averaged."""
    (strategy,) = planned.strategies
    right = type(strategy).finish

    def wrong(worker: Any, mesh: Any) -> None:
        right(strategy, worker, mesh)
        compute = worker.compute

        def doubled(inputs: Any, targets: Any) -> StepResult:
            result = compute(inputs, targets)
            for _, parameter in worker.named_parameters():
                parameter.grad.mul_(2)
            return result

        worker.compute = doubled

    object.__setattr__(strategy, "finish", wrong)


def _dropped_slice(planned: Plan) -> None:
    """Tensor slicing in which one worker's slice of the first layer is ignored."""
    (strategy,) = planned.strategies
    right = type(strategy).apply

    def wrong(worker: Any, mesh: Any) -> None:
        right(strategy, worker, mesh)
        if mesh.get_local_rank("tensor") == 1:
            layer = next(p.row for p in worker.full_model.groups if p.row and p.column)
            with torch.no_grad():
                worker.blocks.get_submodule(layer).weight.to_local().zero_()

    object.__setattr__(strategy, "apply", wrong)


def _lost_microbatch(planned: Plan) -> None:
    """A pipeline whose last microbatch is a copy of its first."""
    (strategy,) = planned.strategies
    right = type(strategy).apply

    def wrong(worker: Any, mesh: Any) -> None:
        right(strategy, worker, mesh)
        compute = worker.compute

        def lossy(inputs: Any, targets: Any) -> StepResult:
            size = len(inputs) // worker.num_microbatches
            inputs, targets = inputs.clone(), targets.clone()
            inputs[-size:], targets[-size:] = inputs[:size], targets[:size]
            result: StepResult = compute(inputs, targets)
            return result

        worker.compute = lossy

    object.__setattr__(strategy, "apply", wrong)


def _shifted_microbatch(planned: Plan) -> None:
    """A pipeline that compares the outputs of each microbatch with the targets of the one before."""
    (strategy,) = planned.strategies
    right = type(strategy).apply

    def wrong(worker: Any, mesh: Any) -> None:
        right(strategy, worker, mesh)
        compute = worker.compute
        worker.compute = lambda inputs, targets: compute(inputs, targets.roll(len(targets) // worker.num_microbatches, 0))

    object.__setattr__(strategy, "apply", wrong)


def _tie_forgotten(planned: Plan) -> None:
    """Stages that do not sum the gradients of a parameter that they share."""
    staged = _module("workbench.strategies.pipeline.stages").StagedStrategy
    staged.with_gradient_sum = lambda strategy, worker, name, group: worker.compute


def _own_dropout_streams(planned: Plan) -> None:
    """Replicas that draw the dropout masks of the first samples of the batch for their own samples."""
    worker_model = _module("workbench.strategies.worker_model").WorkerModel
    worker_model.begin_step = lambda worker, step: worker.dropout_keys.begin_step(step, torch.arange(worker.batch_size))


def _ignored_targets_counted(planned: Plan) -> None:
    """Pieces of a batch that are weighted by the number of all their targets."""
    object.__setattr__(planned.model, "loss_weight", lambda targets: targets.numel())


def _positions_not_set(planned: Plan) -> None:
    """Context parallelism in which all workers take their part of the sequence for the first."""
    (strategy,) = planned.strategies
    right = type(strategy).apply

    def wrong(worker: Any, mesh: Any) -> None:
        right(strategy, worker, mesh)
        worker.blocks.embedding.positions = None

    object.__setattr__(strategy, "apply", wrong)


def _experts_summed(planned: Plan) -> None:
    """Experts whose gradients are summed over the replicas instead of averaged."""
    from workbench.strategies.expert import all_to_all

    right = all_to_all.average
    all_to_all.average = lambda worker, num_replicas, same_experts: right(worker, 1, same_experts)


def _parts_not_summed(planned: Plan) -> None:
    """Sequence parallelism in which each worker keeps the gradients of norms from its own part of the sequence."""
    (strategy,) = planned.strategies
    object.__setattr__(strategy, "finish", lambda worker, mesh: None)


def _wrong_token(planned: Plan) -> None:
    """Generation whose last stage sends another token than it has selected."""
    from workbench.strategies.pipeline.generation import Links

    right = Links.send_token
    Links.send_token = lambda links, token: right(links, token ^ 1)  # type: ignore[assignment,method-assign]


def _token_ignored(planned: Plan) -> None:
    """Generation whose first stage ignores the token that it receives."""
    from workbench.strategies.pipeline.generation import Links

    right = Links.receive_token
    Links.receive_token = lambda links, batch: right(links, batch) * 0  # type: ignore[assignment,method-assign]


def _module(name: str) -> Any:
    """Returns a module whose functions can be replaced."""
    return importlib.import_module(name)


def _optimizer_changed(change: Callable[[Any], None]) -> Callable[[Plan], None]:
    """Returns a mistake in which the parameter groups of the optimizer are changed on one worker after its construction."""

    def make(planned: Plan) -> None:
        optimizer_parity = _module("workbench.runtime.parity.optimizer")
        right = optimizer_parity.make_optimizer

        def wrong(worker: Any, train: Any) -> Any:
            optimizer = right(worker, train)
            if worker.rank_view.rank == planned.num_workers - 1:
                for group in optimizer.param_groups:
                    change(group)
            return optimizer

        optimizer_parity.make_optimizer = wrong

    return make


def _decay_everywhere(planned: Plan) -> None:
    """An optimizer that also decays norms and biases, on every worker."""
    _module("workbench.runtime.optimizer").decays = lambda train, parameter: True


def _group_ignored(planned: Plan) -> None:
    """A ZeRO-1 optimizer that updates only the parameters of its first group."""
    zero1 = _module("workbench.strategies.data.zero1")
    right = zero1.sharded_optimizer

    def wrong(group: Any) -> Any:
        make = right(group)
        return lambda kind, groups, **options: make(kind, groups[:1], **options)

    zero1.sharded_optimizer = wrong


def _schedule_on_last_worker(planned: Plan) -> None:
    """A learning-rate schedule that only the last worker follows; the others keep the learning rate of the first step."""
    optimizer_parity = _module("workbench.runtime.parity.optimizer")
    right = optimizer_parity.set_learning_rate

    def wrong(optimizer: Any, train: Any, step: int) -> None:
        right(optimizer, train, step if dist.get_rank() == planned.num_workers - 1 else 0)

    optimizer_parity.set_learning_rate = wrong


def _loss_weights_ignored(planned: Plan) -> None:
    """Pieces of a batch that are averaged uniformly, regardless of the number of their targets that count."""
    worker_model = _module("workbench.strategies.worker_model")
    worker_model.WorkerModel.piece_loss = lambda worker, outputs, targets: worker.loss(outputs, targets)


MISTAKES = {
    "weights left out": _loss_weights_ignored,
    "ignored targets counted": _ignored_targets_counted,
    "gradients kept": _gradients_kept,
    "microbatch shifted": _shifted_microbatch,
    "tie forgotten": _tie_forgotten,
    "dropout streams of its own": _own_dropout_streams,
    "gradients not averaged": _gradients_summed,
    "gradients doubled": _doubled,
    "slice dropped": _dropped_slice,
    "experts summed": _experts_summed,
    "microbatch lost": _lost_microbatch,
    "positions not told": _positions_not_set,
    "parts not summed": _parts_not_summed,
    "other token": _wrong_token,
    "token not taken": _token_ignored,
    "norms and biases decayed": _decay_everywhere,
    "group lost": _group_ignored,
    "schedule on one worker": _schedule_on_last_worker,
    "other betas": _optimizer_changed(lambda group: group.update(betas=(0.9, 0.99))),
    "other momentum": _optimizer_changed(lambda group: group.update(momentum=0.5)),
}
