"""The torch modules of the residual network."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import relu

from workbench.models.dropout_modules import SampleDropout
from workbench.plan.layer_groups import Convolution


class Stem(nn.Module):
    """relu(norm(convolution(x))), (batch, channels, height, width) → (batch, width of the first stage, …)."""

    def __init__(self, convolution: Convolution) -> None:
        super().__init__()
        self.convolution = _convolution(convolution)
        self.convolution_norm = _norm(convolution)

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.convolution_norm(self.convolution(x)))


class ResidualBlock(nn.Module):
    """relu(shortcut(x) + norm(second(relu(norm(first(x)))))). If the shape does not change, the shortcut is x."""

    def __init__(self, first: Convolution, second: Convolution, shortcut: Convolution | None = None) -> None:
        super().__init__()
        self.first, self.first_norm = _convolution(first), _norm(first)
        self.second, self.second_norm = _convolution(second), _norm(second)
        self.has_shortcut = shortcut is not None
        if shortcut is not None:
            self.shortcut, self.shortcut_norm = _convolution(shortcut), _norm(shortcut)

    def forward(self, x: Tensor) -> Tensor:
        inner = relu(self.first_norm(self.first(x)))
        short = self.shortcut_norm(self.shortcut(x)) if self.has_shortcut else x
        return relu(short + self.second_norm(self.second(inner)))


class GlobalPool(nn.Module):
    """Mean over the image: (batch, channels, height, width) → (batch, channels)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class Head(nn.Module):
    """Mean over the image, dropout and linear projection to the classes."""

    def __init__(self, channels: int, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.pool = GlobalPool()
        self.dropout = SampleDropout(dropout)
        self.projection = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(self.dropout(self.pool(x)))


def _convolution(c: Convolution) -> nn.Conv2d:
    return nn.Conv2d(c.in_channels, c.out_channels, c.kernel, c.stride, c.padding, bias=False)


def _norm(c: Convolution) -> nn.Module:
    return nn.BatchNorm2d(c.out_channels) if c.norm_groups is None else nn.GroupNorm(c.norm_groups, c.out_channels)
