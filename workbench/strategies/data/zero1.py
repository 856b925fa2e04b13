"""An optimizer whose state is sharded over the replicas (ZeRO-1, Rajbhandari et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from workbench.strategies.data.sharding import owners
from workbench.torch_private.zero import ZeroRedundancyOptimizer


def sharded_optimizer(group: dist.ProcessGroup) -> Callable[..., Optimizer]:
    """Returns a factory of optimizers that update a part of the parameters and broadcast it to the other replicas."""

    def make(kind: type[Optimizer], groups: list[dict[str, Any]], **options: Any) -> Optimizer:
        return _ShardedOptimizer(groups, kind, group, **options)

    return make


class _ShardedOptimizer(ZeroRedundancyOptimizer):
    """torch's optimizer with support for DTensors: it partitions and broadcasts the local tensors, over all parameter groups."""

    def divide_parameters(self) -> list[list[dict[str, Any]]]:
        parameters = list(chain.from_iterable(group["params"] for group in self.param_groups))
        owner = owners([_local(p).numel() for p in parameters], self.world_size)
        owner_by_id = dict(zip(map(id, parameters), owner, strict=True))
        return [
            [{**g, "params": [p for p in g["params"] if owner_by_id[id(p)] == rank]} for g in self.param_groups]
            for rank in range(self.world_size)
        ]

    def broadcast_from(self, rank: int) -> list[Any]:
        source = dist.get_global_rank(self.process_group, rank)
        parameters = chain.from_iterable(group["params"] for group in self.parameters_by_rank()[rank])
        return [dist.broadcast(_local(p), source, group=self.process_group, async_op=True) for p in parameters]


def _local(tensor: Tensor) -> Tensor:
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()
