"""Mixtures of experts that can be divided over workers, as tutorials write them, and look-alikes that cannot."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

WIDTH, FEATURES, CLASSES = 8, 64, 10


def feed_forward(width: int = WIDTH) -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 2 * width), nn.ReLU(), nn.Linear(2 * width, WIDTH))


class Mixture(nn.Module):
    """Top-2 routing with a loop over experts.

    Args:
        kind: What makes it otherwise than its output a sum over experts of each token.
    """

    def __init__(self, num_experts: int = 4, kind: str = "") -> None:
        super().__init__()
        self.kind = kind
        self.router = nn.Linear(WIDTH, num_experts)
        self.experts = nn.ModuleList(feed_forward(WIDTH + (kind == "unlike" and i)) for i in range(num_experts))
        self.shared = feed_forward() if kind == "shared" else None
        self.dropout = nn.Dropout(0.1 if kind == "dropout" else 0.0)
        self.num_tokens = 0
        if kind == "zeros":
            for expert in self.experts:
                nn.init.zeros_(expert[2].weight), nn.init.zeros_(expert[2].bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(x)
        if self.kind == "counter":
            self.num_tokens += len(x)
        if self.kind == "pairs":
            return (
                sum(one(x) * two(x) for one, two in zip(self.experts[::2], self.experts[1::2], strict=True))
                + 0 * self.router(x).sum()
            )
        logits = self.router(x)
        if self.kind == "noise" and self.training:
            logits = logits + torch.randn_like(logits)
        weights, chosen = logits.topk(2, dim=-1)
        weights = F.softmax(weights, dim=-1)
        out = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            token, slot = torch.where(chosen == index)
            if self.kind == "capacity":
                most = int(1.25 * 2 * len(x) / len(self.experts))
                token, slot = token[:most], slot[:most]
            if token.numel() == 0:
                continue
            out[token] += weights[token, slot, None] * expert(x[token])
        if self.shared is not None:
            out = out + self.shared(x)
        return F.layer_norm(out, (WIDTH,)) if self.kind == "norm" else out


class Dense(nn.Module):
    """Every expert computes every token; also returns the probabilities of the router."""

    def __init__(self, num_experts: int = 4) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, num_experts)
        self.branches = nn.ModuleList(feed_forward() for _ in range(num_experts))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        probabilities = self.gate(x).softmax(-1)
        outputs = torch.stack([branch(x) for branch in self.branches], dim=-1)
        return (outputs * probabilities[:, None]).sum(-1), probabilities


class Layer(nn.Module):
    def __init__(self, mixture: nn.Module) -> None:
        super().__init__()
        self.norm, self.moe = nn.LayerNorm(WIDTH), mixture

    def forward(self, x: Tensor) -> Tensor:
        y = self.moe(self.norm(x))
        return x + (y + 0.1 * x[..., :1] * y if isinstance(y, Tensor) else y[0] * (1 + y[1].square().sum(-1, keepdim=True)))


class Classifier(nn.Module):
    """An embedding of the features, layers with a mixture each, and a head."""

    def __init__(self, kind: str = "", num_experts: int = 4, num_layers: int = 2) -> None:
        super().__init__()
        self.stem = nn.Linear(FEATURES, WIDTH)
        mixtures = (Dense(num_experts) if kind == "dense" else Mixture(num_experts, kind) for _ in range(num_layers))
        self.layers = nn.ModuleList(map(Layer, mixtures))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.flatten(1))
        for layer in self.layers:
            x = layer(x)
        return self.head(x)
