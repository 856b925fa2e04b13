"""Ring attention (Liu et al. 2023): keys and values are rotated over the workers while attention is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from workbench.strategies.context.exchange import Pair, PositionRanges, visible_pairs


class RingExchange:
    """Rotates each part of keys and values once over the workers; the next part is received while one is computed with."""

    def __init__(self, ranges: PositionRanges, group: dist.ProcessGroup) -> None:
        self.group, self.rank, self.size = group, group.rank(), group.size()
        # After step t this worker has the part of the worker t positions before it.
        self.pairs = [visible_pairs(ranges, self.rank, (self.rank - step) % self.size) for step in range(self.size)]

    def visit(self, local: Tensor) -> Iterator[tuple[Tensor, list[Pair]]]:
        part = local
        for step in range(self.size - 1):
            rotation = self._rotate(part)
            yield part, self.pairs[step]
            part = rotation.wait()
        yield part, self.pairs[-1]

    def reduce_gradients(self, local: Tensor, compute_gradient: Callable[[Tensor, list[Pair]], Tensor]) -> Tensor:
        visits = self.visit(local)
        total = compute_gradient(*next(visits))
        rotation = None
        for part, pairs in visits:  # the partial sum of its gradients follows each part, one step later
            gradient = compute_gradient(part, pairs)
            rotation = self._rotate(gradient if rotation is None else gradient.add_(rotation.wait()))
        return total if rotation is None else total.add_(rotation.wait())

    def _rotate(self, tensor: Tensor) -> _Rotation:
        received = torch.empty_like(tensor)
        operations = [
            dist.P2POp(dist.isend, tensor, group=self.group, group_peer=(self.rank + 1) % self.size),
            dist.P2POp(dist.irecv, received, group=self.group, group_peer=(self.rank - 1) % self.size),
        ]
        # NCCL runs operations that are not coalesced in order: if all workers sent first, they would deadlock.
        return _Rotation(received, tensor, dist.batch_isend_irecv(operations[:: 1 if self.rank % 2 == 0 else -1]))


class _Rotation(NamedTuple):
    """A receive in progress, and the tensor being sent at the same time, which must stay alive."""

    received: Tensor
    sent: Tensor
    works: list[dist.Work]

    def wait(self) -> Tensor:
        for work in self.works:
            work.wait()
        return self.received
