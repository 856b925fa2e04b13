"""An optimizer whose state is dealt out over the replicas (ZeRO-1, Rajbhandari et al. 2020)."""

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
    """Makes optimizers that update a part of the parameters each and send it to the others."""

    def make(kind: type[Optimizer], groups: list[dict[str, Any]], **options: Any) -> Optimizer:
        return _ShardedOptimizer(groups, kind, group, **options)

    return make


class _ShardedOptimizer(ZeroRedundancyOptimizer):
    """torch's, which knows nothing of DTensors: parameters are dealt out over all parameter groups by what is held here,
    and that is what is sent."""

    def divide_parameters(self) -> list[list[dict[str, Any]]]:
        parameters = list(chain.from_iterable(group["params"] for group in self.param_groups))
        owner = owners([_local(p).numel() for p in parameters], self.world_size)
        owner_of = dict(zip(map(id, parameters), owner, strict=True))
        return [
            [{**g, "params": [p for p in g["params"] if owner_of[id(p)] == rank]} for g in self.param_groups]
            for rank in range(self.world_size)
        ]

    def broadcast_from(self, rank: int) -> list[Any]:
        source = dist.get_global_rank(self.process_group, rank)
        parameters = chain.from_iterable(group["params"] for group in self.parameters_by_rank()[rank])
        return [dist.broadcast(_local(p), source, group=self.process_group, async_op=True) for p in parameters]


def _local(tensor: Tensor) -> Tensor:
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()
