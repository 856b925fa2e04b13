"""Attention with gathered keys and values, as in Llama 3 (section 3.3.2 of its report)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

import torch
import torch.distributed as dist
from torch import Tensor

from workbench.strategies.context.exchange import Pair, PositionRanges, local_slices


class AllGatherExchange:
    """Gathers all keys and values on every worker, in the order of the sequence."""

    def __init__(self, ranges: PositionRanges, group: dist.ProcessGroup) -> None:
        self.group, local_ranges = group, ranges[group.rank()]
        causal = [
            Pair(rows, slice(r.start, r.stop), True) for rows, r in zip(local_slices(local_ranges), local_ranges, strict=True)
        ]
        earlier = [Pair(pair.queries, slice(0, pair.keys.start), False) for pair in causal if pair.keys.start > 0]
        self.pairs = causal + earlier
        self.positions = [torch.tensor([*chain.from_iterable(worker_ranges)]) for worker_ranges in ranges]
        self.order = torch.cat(self.positions).argsort()  # from gathered to sequence order

    def visit(self, local: Tensor) -> Iterator[tuple[Tensor, list[Pair]]]:
        gathered = [torch.empty_like(local) for _ in self.positions]
        dist.all_gather(gathered, local, group=self.group)
        yield torch.cat(gathered, dim=3)[:, :, :, self.order], self.pairs

    def reduce_gradients(self, local: Tensor, compute_gradient: Callable[[Tensor, list[Pair]], Tensor]) -> Tensor:
        ((gathered, pairs),) = self.visit(local)
        gradient, total = compute_gradient(gathered, pairs), torch.empty_like(local)
        dist.reduce_scatter(total, [gradient[:, :, :, positions] for positions in self.positions], group=self.group)
        return total
