"""Floating-point operations of a step as torch counts them, kernel by kernel: 2 a multiply-add, matrix products only."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count

aten = torch.ops.aten


class CountedFlops(FlopCounterMode):
    """torch's counter, with the kernels that it does not know on CPU (torch 2.13): fused attention, counted over the full
    square as on GPU, and recurrent layers."""

    def __init__(self) -> None:
        of_attention = aten._scaled_dot_product_flash_attention_for_cpu
        super().__init__(
            display=False,
            custom_mapping={
                of_attention: _attention,
                aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
                aten.mkldnn_rnn_layer: _recurrent,
                aten.mkldnn_rnn_layer_backward: _recurrent_backward,
            },
        )


def _attention(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    """Scores, and values weighted by them; shapes (batch, heads, positions, head_dim)."""
    batch, heads, queries, head_dim = q
    return 4 * batch * heads * queries * int(k[2]) * head_dim  # type: ignore[no-any-return]


def _attention_backward(gradient: Any, q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    """Five products: scores are computed again (Dao et al. 2022)."""
    return sdpa_backward_flop_count(gradient, q, k, v)  # type: ignore[no-any-return]


def _recurrent(x: Any, weight: Any, recurrent: Any, *_: Any, **__: Any) -> int:
    """Of each step and sample both products; x is (steps, batch, features), weights are (gates, features)."""
    return 2 * int(x[0]) * int(x[1]) * int(weight[0]) * (int(weight[1]) + int(recurrent[1]))


def _recurrent_backward(x: Any, weight: Any, recurrent: Any, *_: Any, **__: Any) -> int:
    """The gradients of inputs and of weights each take what forward took."""
    return 2 * _recurrent(x, weight, recurrent)
