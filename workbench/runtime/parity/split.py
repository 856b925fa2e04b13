"""The split in a parity check: what all workers compute in a step, gathered on rank 0."""

from __future__ import annotations

from typing import Any

from workbench.plan.plan import Plan
from workbench.runtime.batches import Batches
from workbench.runtime.clipping import clip_gradients
from workbench.runtime.optimizer import make_optimizer
from workbench.runtime.parity.dropout import turn_off_dropout
from workbench.runtime.parity.local_tensors import LocalTensor, gather, in_order, local_gradients, local_parameters, local_results
from workbench.runtime.parity.optimizer import optimizer_errors
from workbench.runtime.parity.reference import LEARNING_RATE
from workbench.runtime.parity.replicas import has_local_parameters, rename_by_replica
from workbench.runtime.step_loop import take_step
from workbench.spec.train import Train
from workbench.strategies.worker_model import WorkerModel


class Split:
    """This worker's part of the split. All workers call each method together.

    Args:
        control: Process group on which local tensors are gathered.
    """

    def __init__(self, plan: Plan, worker: WorkerModel, batches: Batches, control: Any) -> None:
        self.plan, self.worker, self.batches, self.control = plan, worker, batches, control
        turn_off_dropout(worker.blocks)
        worker.keep_outputs = True
        self.sgd = make_optimizer(worker, Train(optimizer="sgd", learning_rate=LEARNING_RATE))

    def step(self, step: int) -> list[LocalTensor]:
        """Takes a step. Returns the results, gradients and updated parameters of all workers on rank 0, an empty list on other
        ranks."""
        inputs, targets = self.batches.worker_batch(step, self.worker)
        self.worker.begin_step(step)
        tensors = self._step(inputs, targets)
        if has_local_parameters(self.plan.lossy):
            tensors = rename_by_replica(tensors, self.worker.batch_part[0])
        return self._gather(tensors)

    def _step(self, inputs: Any, targets: Any) -> list[LocalTensor]:
        if not self.worker.trains:
            return local_results(self.worker, take_step(self.worker, None, inputs, targets))
        if self.sgd is not None:
            self.sgd.zero_grad()
        tensors = local_results(self.worker, self.worker.compute(inputs, targets)) + local_gradients(self.worker)
        max_norm = self.plan.spec.train.max_gradient_norm
        if max_norm is not None:
            clip_gradients(self.worker, max_norm)
        if self.sgd is not None:
            self.sgd.step()
        return in_order(tensors + local_parameters(self.worker.named_parameters()), self.worker.stored_order)

    def optimizer_errors(self, global_norm_share: float) -> dict[str, float]:
        """Takes steps of the configured optimizer. Returns the errors of the parameters on rank 0, none on other ranks."""
        is_reference, is_local = self.worker.rank_view.rank == 0, has_local_parameters(self.plan.lossy)
        return optimizer_errors(self.plan.spec.train, self.worker, self._gather, is_reference, global_norm_share, is_local)

    def _gather(self, tensors: list[LocalTensor]) -> list[LocalTensor]:
        return gather(tensors, self.control, self.plan.num_workers, self.worker.rank_view.rank)
