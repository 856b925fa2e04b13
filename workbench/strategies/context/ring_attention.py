"""Ring attention (Liu et al. 2023): keys and values travel around the workers while attention is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from workbench.strategies.context.exchange import Pair, Runs, visible_pairs


class Ring:
    """Each part of keys and values travels once around the workers; the next is on its way while one is computed with."""

    def __init__(self, runs: Runs, group: dist.ProcessGroup) -> None:
        self.group, self.here, self.size = group, group.rank(), group.size()
        # After t steps the part of the worker t places before is here.
        self.pairs = [visible_pairs(runs, self.here, (self.here - step) % self.size) for step in range(self.size)]

    def visit(self, own: Tensor) -> Iterator[tuple[Tensor, list[Pair]]]:
        part = own
        for step in range(self.size - 1):
            arriving = self._pass_on(part)
            yield part, self.pairs[step]
            part = arriving.wait()
        yield part, self.pairs[-1]

    def sum_of(self, own: Tensor, gradient_of: Callable[[Tensor, list[Pair]], Tensor]) -> Tensor:
        visits = self.visit(own)
        total = gradient_of(*next(visits))
        arriving = None
        for part, pairs in visits:  # behind each part travels the sum of its gradients so far, one worker later
            gradient = gradient_of(part, pairs)
            arriving = self._pass_on(gradient if arriving is None else gradient.add_(arriving.wait()))
        return total if arriving is None else total.add_(arriving.wait())

    def _pass_on(self, tensor: Tensor) -> Arriving:
        received = torch.empty_like(tensor)
        operations = [
            dist.P2POp(dist.isend, tensor, group=self.group, group_peer=(self.here + 1) % self.size),
            dist.P2POp(dist.irecv, received, group=self.group, group_peer=(self.here - 1) % self.size),
        ]
        # NCCL, not coalesced, goes on when the first is done: were all to send first, nobody would receive.
        return Arriving(received, tensor, dist.batch_isend_irecv(operations[:: 1 if self.here % 2 == 0 else -1]))


class Arriving(NamedTuple):
    """A tensor on its way here, and the one that went out at the same time."""

    received: Tensor
    sent: Tensor
    works: list[dist.Work]

    def wait(self) -> Tensor:
        for work in self.works:
            work.wait()
        return self.received
