"""The torch modules of the multilayer perceptron."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import gelu

from workbench.models.dropout_modules import SampleDropout


class Projection(nn.Module):
    """Linear projection, (batch, in_features) → (batch, out_features)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.projection = nn.Linear(in_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(x)


class ResidualLayer(nn.Module):
    """x + dropout(down(gelu(up(x)))), (batch, hidden) → (batch, hidden)."""

    def __init__(self, hidden_dim: int, feedforward_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.up = nn.Linear(hidden_dim, feedforward_dim)
        self.down = nn.Linear(feedforward_dim, hidden_dim)
        self.dropout = SampleDropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.down(gelu(self.up(x))))
