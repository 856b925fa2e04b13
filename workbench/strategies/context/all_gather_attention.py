"""Attention with gathered keys and values, as in Llama 3 (section 3.3.2 of its report)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

import torch
import torch.distributed as dist
from torch import Tensor

from workbench.strategies.context.exchange import Pair, Runs, slices_of


class AllGather:
    """Every worker gathers all keys and values, in the order of the sequence."""

    def __init__(self, runs: Runs, group: dist.ProcessGroup) -> None:
        self.group, mine = group, runs[group.rank()]
        own = [Pair(rows, slice(run.start, run.stop), True) for rows, run in zip(slices_of(mine), mine, strict=True)]
        before = [Pair(pair.queries, slice(0, pair.keys.start), False) for pair in own if pair.keys.start > 0]
        self.pairs = own + before
        self.positions = [torch.tensor([*chain.from_iterable(of_worker)]) for of_worker in runs]
        self.order = torch.cat(self.positions).argsort()  # of what is gathered, to the sequence's

    def visit(self, own: Tensor) -> Iterator[tuple[Tensor, list[Pair]]]:
        gathered = [torch.empty_like(own) for _ in self.positions]
        dist.all_gather(gathered, own, group=self.group)
        yield torch.cat(gathered, dim=3)[:, :, :, self.order], self.pairs

    def sum_of(self, own: Tensor, gradient_of: Callable[[Tensor, list[Pair]], Tensor]) -> Tensor:
        ((whole, pairs),) = self.visit(own)
        gradient, total = gradient_of(whole, pairs), torch.empty_like(own)
        dist.reduce_scatter(total, [gradient[:, :, :, positions] for positions in self.positions], group=self.group)
        return total
