"""Causal attention of queries that one worker holds to keys and values that all workers hold a part of.

Ring attention is Liu et al. 2023; keys and values gathered, Llama 3's way, is section 3.3.2 of its report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, chain
from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from workbench.strategies.attention_modules import attend, attend_backward

Runs = Sequence[tuple[range, ...]]
"""For each worker in order the runs of positions that it holds, ascending and all equally long."""


class Pair(NamedTuple):
    """Queries that meet keys: all of each other, or causally, when both are the same positions."""

    queries: slice
    """Of those that this worker holds."""

    keys: slice
    """Of those at hand."""

    is_causal: bool


class Exchange(Protocol):
    """How a worker comes by the keys and values of the others. A tensor of them is (2, batch, heads, positions, head_dim)."""

    def visit(self, own: Tensor) -> Iterator[tuple[Tensor, list[Pair]]]:
        """Keys and values of all workers, one part after the other, and which of them this worker's queries see."""

    def sum_of(self, own: Tensor, gradient_of: Callable[[Tensor, list[Pair]], Tensor]) -> Tensor:
        """Calls ``gradient_of`` with every part; of the results, the sum over all workers of what belongs to ``own``."""


def split_attention(kind: str, runs: Runs, group: dist.ProcessGroup) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Causal attention (q, k, v) → values, each (batch, heads, positions, head_dim) of the positions that this worker
    holds; k and v may have fewer heads."""
    exchange: Exchange = Ring(runs, group) if kind == "ring" else AllGather(runs, group)

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # its sends cannot be traced; the rest of a block is compiled
    def product(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return SplitAttention.apply(q, k, v, exchange)  # type: ignore[no-any-return]

    return product  # type: ignore[no-any-return]


class SplitAttention(torch.autograd.Function):
    """softmax(q kᵀ / √head_dim) v over the keys and values that an exchange brings."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, exchange: Exchange) -> Tensor:
        dtype = torch.promote_types(q.dtype, torch.float32)  # bf16 values are rounded once, at the end
        values = torch.zeros_like(q, dtype=dtype)
        denominator = torch.full_like(q[..., 0], -torch.inf, dtype=dtype)  # its logarithm, (batch, heads, positions)
        for (keys, part_values), pairs in exchange.visit(torch.stack([k, v])):
            for rows, columns, is_causal in pairs:
                part, part_denominator = attend(q[:, :, rows], keys[:, :, columns], part_values[:, :, columns], is_causal)
                before, weight = denominator[:, :, rows], (part_denominator - denominator[:, :, rows]).sigmoid()[..., None]
                values[:, :, rows] = torch.lerp(values[:, :, rows], part.to(dtype), weight)
                denominator[:, :, rows] = torch.logaddexp(before, part_denominator)
        values = values.to(q.dtype)
        ctx.save_for_backward(q, k, v, values, denominator)
        ctx.exchange = exchange
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, values, denominator = ctx.saved_tensors
        of_queries = torch.zeros_like(q)

        def gradient_of(part: Tensor, pairs: list[Pair]) -> Tensor:
            of_part = torch.zeros_like(part)
            for rows, columns, is_causal in pairs:
                keys, part_values = part[:, :, :, columns]
                of_q, of_k, of_v = attend_backward(
                    gradient[:, :, rows], q[:, :, rows], values[:, :, rows], denominator[:, :, rows], keys, part_values, is_causal
                )
                of_queries[:, :, rows] += of_q
                of_part[0, :, :, columns] += of_k
                of_part[1, :, :, columns] += of_v
            return of_part

        of_keys, of_values = ctx.exchange.sum_of(torch.stack([k, v]), gradient_of)
        return of_queries, of_keys, of_values, None


class Ring:
    """Each part of keys and values travels once around the workers; the next is on its way while one is computed with."""

    def __init__(self, runs: Runs, group: dist.ProcessGroup) -> None:
        self.group, self.here, self.size = group, group.rank(), group.size()
        # After t steps the part of the worker t places before is here.
        self.pairs = [_seen(runs, self.here, (self.here - step) % self.size) for step in range(self.size)]

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


class AllGather:
    """Every worker gathers all keys and values, in the order of the sequence."""

    def __init__(self, runs: Runs, group: dist.ProcessGroup) -> None:
        self.group, mine = group, runs[group.rank()]
        own = [Pair(rows, slice(run.start, run.stop), True) for rows, run in zip(_places(mine), mine, strict=True)]
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


def _places(runs: tuple[range, ...]) -> list[slice]:
    """Where each run lies in the tensor that holds them all."""
    return [slice(end - len(run), end) for run, end in zip(runs, accumulate(map(len, runs)), strict=True)]


def _seen(runs: Runs, here: int, there: int) -> list[Pair]:
    """What the queries of worker ``here`` see of the keys of worker ``there``: their own causally, of another's a
    rectangle or, when all of them come later, nothing."""
    if here == there:
        return [Pair(slice(None), slice(None), True)]
    mine, theirs = runs[here], runs[there]
    seeing = [place for place, run in zip(_places(mine), mine, strict=True) if theirs[0].start < run.start]
    seen = [place for place, run in zip(_places(theirs), theirs, strict=True) if run.start < mine[-1].start]
    if not seeing or not seen:
        return []
    return [Pair(slice(seeing[0].start, seeing[-1].stop), slice(seen[0].start, seen[-1].stop), False)]
