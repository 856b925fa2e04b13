"""The torch modules of the transformer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

INITIAL_STD = 0.02  # GPT-2's


class Embedding(nn.Module):
    """Token plus position: (batch, sequence) of int64 → (batch, sequence, hidden)."""

    def __init__(self, vocabulary: int, sequence: int, hidden_dim: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, hidden_dim)
        self.position = nn.Parameter(torch.empty(sequence, hidden_dim))
        nn.init.normal_(self.token.weight, std=INITIAL_STD)
        nn.init.normal_(self.position, std=INITIAL_STD)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.token(tokens) + self.position[: tokens.shape[1]]  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Causal self-attention; qkv's features are ordered (head, q/k/v, head_dim), so that a slice holds whole heads."""

    def __init__(self, hidden_dim: int, num_heads: int) -> None:
        super().__init__()
        self.head_dim = hidden_dim // num_heads
        self.qkv = nn.Linear(hidden_dim, 3 * hidden_dim)
        self.output = nn.Linear(hidden_dim, hidden_dim)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (-1, 3, self.head_dim))  # (batch, sequence, heads, 3, head_dim)
        q, k, v = qkv.transpose(1, 2).unbind(3)  # each (batch, heads, sequence, head_dim)
        values = scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.output(values.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """down(gelu(up(x)))."""

    def __init__(self, hidden_dim: int, feedforward_dim: int) -> None:
        super().__init__()
        self.up = nn.Linear(hidden_dim, feedforward_dim)
        self.down = nn.Linear(feedforward_dim, hidden_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(gelu(self.up(x)))  # type: ignore[no-any-return]


class DecoderLayer(nn.Module):
    """x + attention(norm(x)), then x + feedforward(norm(x)); (batch, sequence, hidden) throughout."""

    def __init__(self, hidden_dim: int, num_heads: int, feedforward_dim: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(hidden_dim)
        self.attention = Attention(hidden_dim, num_heads)
        self.feedforward_norm = nn.LayerNorm(hidden_dim)
        self.feedforward = FeedForward(hidden_dim, feedforward_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.feedforward(self.feedforward_norm(x))  # type: ignore[no-any-return]


class Head(nn.Module):
    """Norm and projection to the vocabulary: (batch, sequence, hidden) → (batch, sequence, vocabulary)."""

    def __init__(self, hidden_dim: int, vocabulary: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_dim)
        self.projection = nn.Linear(hidden_dim, vocabulary, bias=False)
        nn.init.normal_(self.projection.weight, std=INITIAL_STD)

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(self.norm(x))  # type: ignore[no-any-return]
