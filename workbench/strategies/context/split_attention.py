"""Causal attention of queries that one worker holds to keys and values that all workers hold a part of.

Ring attention is Liu et al. 2023; keys and values gathered, Llama 3's way, is section 3.3.2 of its report.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from workbench.strategies.context.all_gather_attention import AllGather
from workbench.strategies.context.exchange import Exchange, Pair, Runs
from workbench.strategies.context.partial_attention import attend, attend_backward
from workbench.strategies.context.ring_attention import Ring


def split_attention(kind: str, runs: Runs, group: dist.ProcessGroup) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Causal attention (q, k, v) → values, each (batch, heads, positions, head_dim) of the positions that this worker
    holds; k and v may have fewer heads."""
    exchange: Exchange = Ring(runs, group) if kind == "ring" else AllGather(runs, group)

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # its sends cannot be traced; the rest of a block is compiled
    def product(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return SplitAttention.apply(q, k, v, exchange)

    return product


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
