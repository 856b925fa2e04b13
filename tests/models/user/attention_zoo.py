"""Attention, feed-forward layers and their look-alikes, as people write them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

WIDTH, HEADS = 16, 4


class SeparateHeads(nn.Module):
    """q, k and v of their own, a number of heads as an attribute, and optional norms per head."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.num_heads, self.head_dim = HEADS, WIDTH // HEADS
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.norm: nn.Module = nn.RMSNorm(self.head_dim) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = (layer(x).view(batch, length, self.num_heads, -1).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(self.norm(q), k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(batch, length, self.num_heads * self.head_dim))


class GroupedHeads(nn.Module):
    """Two key heads for four query heads, without attributes: -1 in every view."""

    def __init__(self) -> None:
        super().__init__()
        self.head_dim = WIDTH // HEADS
        self.q, self.k, self.v = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH // 2), nn.Linear(WIDTH, WIDTH // 2)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.out(y.transpose(1, 2).flatten(2))


class FusedHeads(nn.Module):
    """One projection for q, k and v, a part for each; the sizes are attributes, or those of the input."""

    def __init__(self, key_heads: int = HEADS, sizes_of_input: bool = False) -> None:
        super().__init__()
        self.num_heads, self.key_heads, self.sizes_of_input = HEADS, key_heads, sizes_of_input
        self.head_dim = WIDTH // HEADS
        self.qkv = nn.Linear(WIDTH, WIDTH + 2 * key_heads * self.head_dim)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        if self.sizes_of_input:
            q, k, v = self.qkv(x).split(width, dim=2)
            q, k, v = (t.view(batch, length, self.num_heads, width // self.num_heads).transpose(1, 2) for t in (q, k, v))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.out(y.transpose(1, 2).contiguous().view(batch, length, width))
        sizes = [self.num_heads * self.head_dim, self.key_heads * self.head_dim, self.key_heads * self.head_dim]
        heads = (t.view(batch, length, -1, self.head_dim).transpose(1, 2) for t in self.qkv(x).split(sizes, dim=-1))
        y = F.scaled_dot_product_attention(*heads, is_causal=True, enable_gqa=True)
        return self.out(y.transpose(1, 2).flatten(2))


class Attended(nn.Module):
    """``nn.MultiheadAttention`` of which the weights, averaged over the heads, are used; its input has the batch as dim 1."""

    def __init__(self, key_bias: bool = False) -> None:
        super().__init__()
        self.heads = nn.ModuleList([nn.MultiheadAttention(WIDTH, HEADS, add_bias_kv=key_bias)])

    def forward(self, x: Tensor) -> Tensor:
        t = x.transpose(0, 1)
        y, weights = self.heads[0](t, t, t)
        return y.transpose(0, 1) + weights.square().sum(-1, keepdim=True)


class OwnAttention(nn.MultiheadAttention):
    """A class of its own with torch's parameters."""


class Translator(nn.Module):
    """A decoder layer of torch that attends to its own input and to embeddings as memory; for tokens."""

    def __init__(self, tokens: int = 20, kind: str = "decoder") -> None:
        super().__init__()
        self.embed, self.kind = nn.Embedding(tokens, WIDTH), kind
        self.layer: nn.Module = nn.TransformerDecoderLayer(WIDTH, HEADS, 24, dropout=0.0, batch_first=True, norm_first=True)
        if kind != "decoder":
            own = OwnAttention(WIDTH, HEADS)
            self.layer = own if kind == "own" else Attended(kind == "biased")
        self.head = nn.Linear(WIDTH, tokens)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        if self.kind == "decoder":
            mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], dtype=x.dtype)
            return self.head(self.layer(x, x.flip(1), tgt_mask=mask, tgt_is_causal=True, memory_key_padding_mask=tokens == 1))
        return self.head(self.layer(x, x, x)[0] if self.kind == "own" else self.layer(x))


class Gated(nn.Module):
    """A product of two projections."""

    def __init__(self, hidden: int = 24) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(WIDTH, hidden), nn.Linear(WIDTH, hidden), nn.Linear(hidden, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Layer(nn.Module):
    """Attention and a feed-forward layer with residuals."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention, self.mlp = attention, Gated()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Decoder(nn.Module):
    """A language model whose head may be its embedding; for tokens."""

    def __init__(self, attention: str = "separate", layers: int = 2, tokens: int = 20, tied: bool = True) -> None:
        super().__init__()
        kinds: dict[str, Callable[[], nn.Module]] = {
            "separate": SeparateHeads,
            "normed": lambda: SeparateHeads(norm=True),
            "grouped": GroupedHeads,
        }
        kinds |= {
            "fused": FusedHeads,
            "fused, grouped": lambda: FusedHeads(key_heads=2),
            "fused, sizes of the input": lambda: FusedHeads(sizes_of_input=True),
        }
        self.embed = nn.Embedding(tokens, WIDTH)
        self.layers = nn.ModuleList(Layer(kinds[attention]()) for _ in range(layers))
        self.head = nn.Linear(WIDTH, tokens, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class Between(nn.Module):
    """Two linear layers with something in between; for features."""

    def __init__(self, kind: str = "relu", inputs: int = 64) -> None:
        super().__init__()
        self.first, self.second, self.kind = nn.Linear(inputs, 16), nn.Linear(16, 10), kind
        norms = {"layer_norm": nn.LayerNorm(16), "rms_norm": nn.RMSNorm(16), "group_norm": nn.GroupNorm(2, 16)}
        self.norm = norms.get(kind)
        self.scale = nn.Parameter(torch.ones(1)) if kind == "scale" else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        if self.norm is not None:
            h = self.norm(h)
        elif self.kind == "softmax":
            h = h.softmax(-1)
        elif self.kind == "squeeze":
            h = h * torch.sigmoid(h.mean(-1, keepdim=True))
        elif self.kind == "sort":
            h = h.sort(-1).values
        elif self.kind == "branch":
            h = h if h.sum() > -1e9 else -h
        elif self.scale is not None:
            h = h * self.scale
        else:
            h = torch.relu(h)
        return self.second(h)
