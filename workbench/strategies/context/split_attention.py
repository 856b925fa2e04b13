"""Causal attention of the local queries of a worker to the keys and values of all workers.

Keys and values are rotated (ring attention, Liu et al. 2023) or all-gathered (Llama 3 report, section 3.3.2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from workbench.strategies.context.all_gather_attention import AllGatherExchange
from workbench.strategies.context.exchange import KeyValueExchange, Pair, PositionRanges
from workbench.strategies.context.partial_attention import attend, attend_backward
from workbench.strategies.context.ring_attention import RingExchange


def split_attention(kind: str, ranges: PositionRanges, group: dist.ProcessGroup) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Returns the causal attention function (q, k, v) → values.

    All tensors are (batch, heads, positions, head_dim) at the positions that this worker holds; k and v may have fewer heads.
    """
    exchange: KeyValueExchange = RingExchange(ranges, group) if kind == "ring" else AllGatherExchange(ranges, group)

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # its communication cannot be traced; the rest of a block is compiled
    def product(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return SplitAttention.apply(q, k, v, exchange)

    return product


class SplitAttention(torch.autograd.Function):
    """softmax(q kᵀ / √head_dim) v over the keys and values of all workers."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, exchange: KeyValueExchange) -> Tensor:
        dtype = torch.promote_types(q.dtype, torch.float32)  # bf16 values are rounded once, at the end
        values = torch.zeros_like(q, dtype=dtype)
        lse = torch.full_like(q[..., 0], -torch.inf, dtype=dtype)  # (batch, heads, positions)
        for (keys, part_values), pairs in exchange.visit(torch.stack([k, v])):
            for rows, columns, is_causal in pairs:
                part, part_lse = attend(q[:, :, rows], keys[:, :, columns], part_values[:, :, columns], is_causal)
                previous, weight = lse[:, :, rows], (part_lse - lse[:, :, rows]).sigmoid()[..., None]
                values[:, :, rows] = torch.lerp(values[:, :, rows], part.to(dtype), weight)
                lse[:, :, rows] = torch.logaddexp(previous, part_lse)
        values = values.to(q.dtype)
        ctx.save_for_backward(q, k, v, values, lse)
        ctx.exchange = exchange
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, values, lse = ctx.saved_tensors
        dq_total = torch.zeros_like(q)

        def compute_gradient(part: Tensor, pairs: list[Pair]) -> Tensor:
            d_part = torch.zeros_like(part)
            for rows, columns, is_causal in pairs:
                keys, part_values = part[:, :, :, columns]
                dq, dk, dv = attend_backward(
                    gradient[:, :, rows], q[:, :, rows], values[:, :, rows], lse[:, :, rows], keys, part_values, is_causal
                )
                dq_total[:, :, rows] += dq
                d_part[0, :, :, columns] += dk
                d_part[1, :, :, columns] += dv
            return d_part

        dk, dv = ctx.exchange.reduce_gradients(torch.stack([k, v]), compute_gradient)
        return dq_total, dk, dv, None
