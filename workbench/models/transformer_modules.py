"""The torch modules of the transformer, also used by the vision transformer and the mixture of experts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention, silu

from workbench.models.dropout_modules import SampleDropout

if TYPE_CHECKING:
    from workbench.models.kv_cache import KVCache

INITIAL_STD = 0.02  # GPT-2's
NORM_EPSILON = 1e-5  # GPT-2's and Llama's

AttentionFn = Callable[[Tensor, Tensor, Tensor], Tensor]
"""q (batch, heads, new positions, head_dim), k and v (batch, key/value heads, positions, head_dim) → attention, of the shape
of q."""


def make_norm(kind: Literal["layer", "rms"], features: int, bias: bool = True) -> nn.Module:
    """Returns a layer norm (Ba et al. 2016) or an RMS norm (Zhang and Sennrich 2019), which never has a bias."""
    if kind == "rms":
        return nn.RMSNorm(features, eps=NORM_EPSILON)
    return nn.LayerNorm(features, eps=NORM_EPSILON, bias=bias)


def swiglu(x: Tensor) -> Tensor:
    """Returns silu(gate) × value (Shazeer 2020, equation 6), (…, 2 × features) → (…, features).

    x is ordered by (feature, gate/value), so that a slice of it contains complete pairs.
    """
    gate, value = x.unflatten(-1, (-1, 2)).unbind(-1)
    return silu(gate) * value


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": gelu, "gated": swiglu}


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Returns softmax(q kᵀ / √head_dim) v with a causal mask; the queries belong to the last positions of the keys."""
    new, total = q.shape[2], k.shape[2]
    mask = torch.ones(new, total, dtype=torch.bool, device=q.device).tril(total - new) if new < total else None
    return scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, enable_gqa=q.shape[1] != k.shape[1])


def full_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Returns softmax(q kᵀ / √head_dim) v without a mask."""
    return scaled_dot_product_attention(q, k, v, enable_gqa=q.shape[1] != k.shape[1])


class Positioned(nn.Module):
    """A module that needs the positions of its input in the sequence."""

    positions: Tensor | None = None
    """int64 (sequence,); None for 0, 1, …. Set by the caller of a part of the sequence."""


class Embedding(Positioned):
    """Token embedding plus, if learned, position embedding, then dropout: (batch, sequence) of int64 → (batch, sequence,
    hidden)."""

    def __init__(self, vocabulary: int, hidden_dim: int, num_positions: int | None, dropout: float = 0.0) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, hidden_dim)
        self.position = None if num_positions is None else nn.Parameter(torch.empty(num_positions, hidden_dim))
        self.dropout = SampleDropout(dropout)
        nn.init.normal_(self.token.weight, std=INITIAL_STD)
        if self.position is not None:
            nn.init.normal_(self.position, std=INITIAL_STD)

    def forward(self, tokens: Tensor) -> Tensor:
        if self.position is None:
            return self.dropout(self.token(tokens))
        # A slice if possible: its gradient is cheaper than that of an index. Before the tokens, so that backward needs nothing
        # after the communication of a sliced token table, and recomputing a block does not repeat it.
        position = self.position[: tokens.shape[1]] if self.positions is None else self.position[self.positions]
        return self.dropout(self.token(tokens) + position)


class Rotary(Positioned):
    """Rotates the pairs (i, i + head_dim / 2) of queries and keys by angles proportional to the position (Su et al. 2021), so
    that their product depends on the distance only."""

    def __init__(self, base: float) -> None:
        super().__init__()
        self.base = base

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Rotates q and k of the same positions, both (batch, sequence, heads, head_dim), without changing their shapes."""
        dtype = torch.promote_types(q.dtype, torch.float32)
        exponents = torch.arange(0, 1, 2 / q.shape[-1], dtype=dtype, device=q.device)
        positions = torch.arange(q.shape[1], device=q.device) if self.positions is None else self.positions
        angles = positions.to(dtype)[:, None, None] * self.base**-exponents  # (sequence, 1, head_dim / 2)
        cos, sin = angles.cos().to(q.dtype), angles.sin().to(q.dtype)
        return _turn(q, cos, sin), _turn(k, cos, sin)


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class Attention(nn.Module):
    """Self-attention of num_heads queries over num_kv_heads keys and values (grouped-query attention, Ainslie et al. 2023).

    The features of qkv are ordered by (key/value head; its q heads, k, v; head_dim), so that a slice of them contains complete
    groups. The number of heads is inferred from the tensor, since a worker may hold a subset.
    """

    cache: KVCache | None = None
    """Keys and values of previous positions; set during generation by ``models/kv_cache.py``."""

    def __init__(
        self,
        hidden_dim: int,
        num_heads: int,
        num_kv_heads: int,
        attention_fn: AttentionFn,
        *,
        bias: bool,
        rotary: Rotary | None = None,
    ) -> None:
        super().__init__()
        self.head_dim, self.queries_per_kv_head = hidden_dim // num_heads, num_heads // num_kv_heads
        self.qkv = nn.Linear(hidden_dim, (num_heads + 2 * num_kv_heads) * self.head_dim, bias=bias)
        self.output = nn.Linear(hidden_dim, hidden_dim, bias=bias)
        self.rotary = rotary
        self.attention_fn = attention_fn
        """Attention of queries over keys and values; context parallelism replaces it by one over parts of the sequence."""

    def forward(self, x: Tensor) -> Tensor:
        groups = self.qkv(x).unflatten(-1, (-1, self.queries_per_kv_head + 2, self.head_dim))
        q, k, v = groups.split([self.queries_per_kv_head, 1, 1], dim=3)
        q, k, v = q.flatten(2, 3), k.flatten(2, 3), v.flatten(2, 3)  # (batch, sequence, heads or kv heads, head_dim)
        if self.rotary is not None:
            q, k = self.rotary(q, k)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if self.cache is not None:
            k, v = self.cache.extend(k, v)
        values = self.attention_fn(q, k, v)  # (batch, heads, sequence, head_dim)
        return self.output(values.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """down(activation(up(x))), (…, hidden) → (…, hidden); with gating, ``up`` has two outputs per feature."""

    def __init__(self, hidden_dim: int, feedforward_dim: int, kind: Literal["gelu", "gated"], *, bias: bool) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[kind]
        self.up = nn.Linear(hidden_dim, feedforward_dim * (2 if kind == "gated" else 1), bias=bias)
        self.down = nn.Linear(feedforward_dim, hidden_dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))


class Layer(nn.Module):
    """x + dropout(attention(norm(x))), then x + dropout(feedforward(norm(x))); (batch, sequence, hidden) throughout."""

    def __init__(self, attention: Attention, feedforward: nn.Module, norm: Callable[[], nn.Module], dropout: float = 0.0) -> None:
        super().__init__()
        self.attention_norm = norm()
        self.attention = attention
        self.attention_dropout = SampleDropout(dropout)
        self.feedforward_norm = norm()
        self.feedforward = feedforward
        self.feedforward_dropout = SampleDropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention_dropout(self.attention(self.attention_norm(x)))
        return x + self.feedforward_dropout(self.feedforward(self.feedforward_norm(x)))


class Head(nn.Module):
    """Norm and projection to the vocabulary: (batch, sequence, hidden) → (batch, sequence, vocabulary)."""

    last_only = False
    """Whether only the last position is projected, (batch, 1, vocabulary): generation needs no others."""

    def __init__(self, norm: nn.Module, hidden_dim: int, vocabulary: int) -> None:
        super().__init__()
        self.norm = norm
        self.projection = nn.Linear(hidden_dim, vocabulary, bias=False)
        nn.init.normal_(self.projection.weight, std=INITIAL_STD)

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(self.norm(x[:, -1:] if self.last_only else x))
