"""A user's own module on a part of the positions: its code runs as it is, with other attention and other positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode


class UnsplitAttentionError(Exception):
    """The module calls attention in a way that is not split; the message is a clause."""


class LocalPositions(TorchFunctionMode):
    """Replaces causal ``scaled_dot_product_attention`` in the code that is called, and the positions 0, 1, … that it makes with
    ``torch.arange``.

    Args:
        positions: Those of this worker, (local positions,).
        attention: (q, k, v) → values, each (batch, heads, local positions, head_dim); k and v may have fewer heads.
    """

    def __init__(self, positions: Tensor, attention: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.positions, self.attention = positions, attention

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        result = func(*args, **kwargs)
        return self.positions.to(result) if func is torch.arange and self._counts_positions(result) else result

    def _counts_positions(self, numbers: Tensor) -> bool:
        count = len(self.positions)
        return numbers.shape == (count,) and bool((numbers == torch.arange(count, device=numbers.device)).all())

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        count, default = len(self.positions), query.shape[-1] ** -0.5
        problems = {
            "with a mask": attn_mask is not None,
            "without is_causal": not is_causal,
            "with dropout": dropout_p > 0,
            f"with scale = {scale}": scale is not None and abs(scale - default) > 1e-9 * default,
            "of other queries than keys": query.shape[-2] != key.shape[-2] or query.shape[-2] != count or query.dim() != 4,
            "with fewer heads of keys without enable_gqa": query.shape[1] != key.shape[1] and not enable_gqa,
            "with values of another shape than keys": key.shape != value.shape,
        }
        if problem := next((text for text, is_so in problems.items() if is_so), ""):
            raise UnsplitAttentionError(f"it calls scaled_dot_product_attention {problem}")
        return self.attention(query, key, value)
