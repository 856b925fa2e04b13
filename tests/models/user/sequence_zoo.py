"""Decoders whose sequence can be split, and look-alikes in which something else depends on other positions."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

WIDTH, HEADS, POSITIONS = 16, 4, 32


class Attention(nn.Module):
    """Two key heads for four query heads."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.q, self.kv, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, kv = (layer(x).unflatten(-1, (-1, WIDTH // HEADS)).transpose(1, 2) for layer in (self.q, self.kv))
        k, v = kv.chunk(2, dim=1)
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril() if self.kind == "mask" else None
        dropout = 0.1 if self.kind == "dropout" and self.training else 0.0
        is_causal = self.kind not in ("mask", "bidirectional")
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=is_causal, enable_gqa=True)
        y = self.out(y.transpose(1, 2).flatten(2))
        return y + x.cumsum(1) if self.kind == "sum of earlier positions" else y


class Decoder(nn.Module):
    """Learned positions, two layers with dropout between them, a head."""

    def __init__(self, positions: str = "arange", attention: str = "causal", dropout: float = 0.2) -> None:
        super().__init__()
        self.kind = positions
        self.tokens, self.positions = nn.Embedding(256, WIDTH), nn.Embedding(POSITIONS, WIDTH)
        self.layers = nn.ModuleList(Attention(attention) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(WIDTH, 256)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        rows = self.positions.weight[:length] if self.kind == "rows" else self.positions(torch.arange(length))
        x = self.tokens(tokens) + rows
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + self.dropout(layer(norm(x)))
        return self.head(x)


class Block(nn.Module):
    """Attention with its residual."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention, self.dropout = nn.LayerNorm(WIDTH), Attention("causal"), nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.attention(self.norm(x)))


class Stacked(nn.Module):
    """A decoder that can be cut after each of its blocks, and may attend between them, too."""

    def __init__(self, attends_between: bool = False) -> None:
        super().__init__()
        self.attends_between = attends_between
        self.tokens, self.positions = nn.Embedding(256, WIDTH), nn.Embedding(POSITIONS, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(WIDTH, 256)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        if self.attends_between:
            x = x + F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], is_causal=True)[:, 0]
        return self.head(x)
