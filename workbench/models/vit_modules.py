"""The torch modules of the vision transformer that the transformer does not have."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from workbench.models.dropout_modules import SampleDropout
from workbench.models.transformer_modules import INITIAL_STD


class PatchEmbedding(nn.Module):
    """Linear projection of the pixels of each patch, optionally a class token before them, plus learned positions, then dropout:
    (batch, channels, height, width) → (batch, sequence, hidden)."""

    def __init__(
        self,
        patch_size: int,
        patch_features: int,
        hidden_dim: int,
        num_positions: int,
        has_class_token: bool,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.dropout = SampleDropout(dropout)
        self.patch = nn.Linear(patch_features, hidden_dim)
        self.position = nn.Parameter(torch.empty(num_positions, hidden_dim))
        self.class_token = nn.Parameter(torch.zeros(hidden_dim)) if has_class_token else None
        nn.init.normal_(self.position, std=INITIAL_STD)

    def forward(self, images: Tensor) -> Tensor:
        size = self.patch_size
        rows = images.unflatten(2, (-1, size)).unflatten(4, (-1, size))  # (batch, channels, rows, size, columns, size)
        patches = rows.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (batch, patches, channels × size × size)
        x: Tensor = self.patch(patches)
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(len(x), 1, -1), x], dim=1)
        return self.dropout(x + self.position)


class ClassHead(nn.Module):
    """Norm, the class token or the mean over all positions, and projection: (batch, sequence, hidden) → (batch, classes)."""

    def __init__(self, norm: nn.Module, hidden_dim: int, num_classes: int, pools_mean: bool) -> None:
        super().__init__()
        self.pools_mean = pools_mean
        self.norm = norm
        self.projection = nn.Linear(hidden_dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.norm(x).mean(dim=1) if self.pools_mean else self.norm(x[:, 0])
        return self.projection(pooled)
