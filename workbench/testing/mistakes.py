"""Splits that compute something else on purpose, so that the suite itself can be tested."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from workbench.plan.plan import Plan
from workbench.strategies.worker_model import StepResult


def _unaveraged(planned: Plan) -> None:
    """Data parallelism that sums its gradients."""
    (strategy,) = planned.strategies
    right = type(strategy).finish

    def wrong(worker: Any, mesh: Any) -> None:
        right(strategy, worker, mesh)

        def summed(state: Any, bucket: Any) -> Any:
            return (
                dist.all_reduce(bucket.buffer(), group=mesh.get_group("data"), async_op=True)
                .get_future()
                .then(lambda f: f.value()[0])
            )

        # torch checks the hook's annotations, which are strings in this file
        summed.__annotations__ = {"bucket": dist.GradBucket, "return": torch.futures.Future[torch.Tensor]}  # type: ignore[attr-defined]
        worker.module.register_comm_hook(None, summed)

    object.__setattr__(strategy, "finish", wrong)


def _doubled(planned: Plan) -> None:
    """Data parallelism, however it averages, whose gradients are then doubled."""
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
    """Tensor slicing in which one worker's slice of the first layer counts for nothing."""
    (strategy,) = planned.strategies
    right = type(strategy).apply

    def wrong(worker: Any, mesh: Any) -> None:
        right(strategy, worker, mesh)
        if mesh.get_local_rank("tensor") == 1:
            layer = next(p.row for p in worker.summary.groups if p.row and p.column)
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


def _positions_not_told(planned: Plan) -> None:
    """A split sequence whose workers all take their part for its beginning."""
    (strategy,) = planned.strategies
    right = type(strategy).apply

    def wrong(worker: Any, mesh: Any) -> None:
        right(strategy, worker, mesh)
        worker.blocks.embedding.positions = None

    object.__setattr__(strategy, "apply", wrong)


def _experts_summed(planned: Plan) -> None:
    """Experts whose gradients are summed over the replicas, not averaged."""
    from workbench.strategies.expert import token_dispatch

    right = token_dispatch.average
    token_dispatch.average = lambda worker, num_replicas, same_experts: right(worker, 1, same_experts)


def _parts_not_summed(planned: Plan) -> None:
    """Sequence parallelism in which each worker keeps the norms' gradients of its own part of the sequence."""
    (strategy,) = planned.strategies
    object.__setattr__(strategy, "finish", lambda worker, mesh: None)


def _other_token(planned: Plan) -> None:
    """A generation whose last stage sends another token than it chose."""
    from workbench.strategies.pipeline.generation import Links

    right = Links.send_token
    Links.send_token = lambda links, token: right(links, token ^ 1)  # type: ignore[assignment,method-assign]


def _token_not_taken(planned: Plan) -> None:
    """A generation whose first stage goes on with a token of its own."""
    from workbench.strategies.pipeline.generation import Links

    right = Links.receive_token
    Links.receive_token = lambda links, batch: right(links, batch) * 0  # type: ignore[assignment,method-assign]


def _module(name: str) -> Any:
    """A module as something whose functions can be replaced."""
    return importlib.import_module(name)


def _optimizer_changed(change: Callable[[Any], None]) -> Callable[[Plan], None]:
    """An optimizer whose parameter groups are changed on one worker after it was made."""

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
    """An optimizer that decays norms and biases too, on every worker."""
    _module("workbench.runtime.optimizer").decays = lambda train, parameter: True


def _group_lost(planned: Plan) -> None:
    """A ZeRO-1 optimizer that updates the parameters of its first group alone."""
    zero1 = _module("workbench.strategies.data.zero1")
    right = zero1.sharded_optimizer

    def wrong(group: Any) -> Any:
        make = right(group)
        return lambda kind, groups, **options: make(kind, groups[:1], **options)

    zero1.sharded_optimizer = wrong


def _schedule_on_one_worker(planned: Plan) -> None:
    """A learning rate that every worker but the last keeps at that of the first step."""
    optimizer_parity = _module("workbench.runtime.parity.optimizer")
    right = optimizer_parity.set_learning_rate

    def wrong(optimizer: Any, train: Any, step: int) -> None:
        right(optimizer, train, step if dist.get_rank() == planned.num_workers - 1 else 0)

    optimizer_parity.set_learning_rate = wrong


def _weights_left_out(planned: Plan) -> None:
    """Pieces of a batch averaged alike, however many of their targets count."""
    worker_model = _module("workbench.strategies.worker_model")
    worker_model.WorkerModel.piece_loss = lambda worker, outputs, targets: worker.loss(outputs, targets)


MISTAKES = {
    "weights left out": _weights_left_out,
    "gradients not averaged": _unaveraged,
    "gradients doubled": _doubled,
    "slice dropped": _dropped_slice,
    "experts summed": _experts_summed,
    "microbatch lost": _lost_microbatch,
    "positions not told": _positions_not_told,
    "parts not summed": _parts_not_summed,
    "other token": _other_token,
    "token not taken": _token_not_taken,
    "norms and biases decayed": _decay_everywhere,
    "group lost": _group_lost,
    "schedule on one worker": _schedule_on_one_worker,
    "other betas": _optimizer_changed(lambda group: group.update(betas=(0.9, 0.99))),
    "other momentum": _optimizer_changed(lambda group: group.update(momentum=0.5)),
}
