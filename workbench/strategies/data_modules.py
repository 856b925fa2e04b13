"""Torch code of data parallelism: accumulated gradients, an optimizer whose state is dealt out (ZeRO-1)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from workbench.strategies._sharding import owners
from workbench.strategies.worker_model import StepResult

if TYPE_CHECKING:
    from workbench.strategies.worker_model import WorkerModel


def quieten_views() -> None:
    """Blocks may return views, as linear layers do; nothing here writes to a block's output in place, which is what FSDP2
    warns of."""
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module \(.*\) returned a view tensor")


def accumulate(worker: WorkerModel, num_steps: int) -> None:
    """Computes the worker's part in ``num_steps`` pieces; their gradients are averaged over the workers with the last."""
    compute = worker.compute

    def step(inputs: Tensor, targets: Tensor) -> StepResult:
        pieces = list(zip(inputs.chunk(num_steps), targets.chunk(num_steps), strict=True))
        results = []
        for number, (x, y) in enumerate(pieces, start=1):
            with _averaging(worker.module, number == num_steps):
                results.append(compute(x, y))
        with worker.span("backward", name="mean of the pieces"):
            for _, parameter in worker.named_parameters():
                if parameter.grad is not None:
                    parameter.grad.div_(num_steps)
        losses = [result.loss for result in results if result.loss is not None]
        outputs = [result.outputs for result in results if result.outputs is not None]
        return StepResult(torch.stack(losses).mean(), torch.cat(outputs) if outputs else None)

    worker.num_microbatches = num_steps
    worker.compute = step


def _averaging(module: Any, is_on: bool) -> AbstractContextManager[None]:
    """Whether backward passes in this context average gradients over the workers."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(is_on)
        return nullcontext()
    return nullcontext() if is_on else module.no_sync()


class _ShardedOptimizer(ZeroRedundancyOptimizer):
    """torch's, which knows nothing of DTensors: parameters are dealt out over all parameter groups by what is held here,
    and that is what is sent."""

    _partition_parameters_cache: list[list[dict[str, Any]]]

    def _partition_parameters(self, params_per_rank: Any = None) -> list[list[dict[str, Any]]]:
        if not self._partition_parameters_cache:
            parameters = list(chain.from_iterable(group["params"] for group in self.param_groups))
            owner = owners([_local(p).numel() for p in parameters], self.world_size)
            owner_of = dict(zip(map(id, parameters), owner, strict=True))
            self._partition_parameters_cache = [
                [{**g, "params": [p for p in g["params"] if owner_of[id(p)] == rank]} for g in self.param_groups]
                for rank in range(self.world_size)
            ]
        return self._partition_parameters_cache

    def _broadcast_params_from_rank(self, rank: int) -> list[Any]:
        source = dist.get_global_rank(self.process_group, rank)
        parameters = chain.from_iterable(group["params"] for group in self._partition_parameters()[rank])
        return [dist.broadcast(_local(p), source, group=self.process_group, async_op=True) for p in parameters]


def sharded_optimizer(group: dist.ProcessGroup) -> Callable[..., Optimizer]:
    """Makes optimizers that update a part of the parameters each and send it to the others (ZeRO-1)."""

    def make(kind: type[Optimizer], groups: list[dict[str, Any]], **options: Any) -> Optimizer:
        return _ShardedOptimizer(groups, kind, group, **options)

    return make


def _local(tensor: Tensor) -> Tensor:
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()
