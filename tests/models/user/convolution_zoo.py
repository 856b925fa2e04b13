"""Convolutional blocks, as people write them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

CHANNELS = 8


class Basic(nn.Module):
    """Two convolutions with norms and a residual (ResNet)."""

    def __init__(self, norm: str = "batch") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.norm1, self.norm2 = self._norm(norm), nn.BatchNorm2d(CHANNELS)

    @staticmethod
    def _norm(kind: str) -> nn.Module:
        groups = {"group": 2, "odd groups": 1}
        return nn.GroupNorm(groups[kind], CHANNELS) if kind in groups else nn.BatchNorm2d(CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


class Inverted(nn.Module):
    """A depthwise convolution between expansion and projection, with squeeze-and-excitation (MobileNetV3)."""

    def __init__(self, excites: bool = True, hidden: int = 16) -> None:
        super().__init__()
        self.expand, self.norm1 = nn.Conv2d(CHANNELS, hidden, 1, bias=False), nn.BatchNorm2d(hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False)
        self.norm2, self.excites = nn.BatchNorm2d(hidden), excites
        self.squeeze, self.excite = (nn.Conv2d(a, b, 1) for a, b in ((hidden, 4), (4, hidden)))
        self.project, self.norm3 = nn.Conv2d(hidden, CHANNELS, 1, bias=False), nn.BatchNorm2d(CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        h = F.hardswish(self.norm2(self.depthwise(F.hardswish(self.norm1(self.expand(x))))))
        if self.excites:
            h = h * F.hardsigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(h, 1)))))
        return x + self.norm3(self.project(h))


class Grouped(nn.Module):
    """A grouped convolution between two others, and an activation with a parameter per channel (ResNeXt)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.act = nn.Conv2d(CHANNELS, 16, 1), nn.PReLU(16)
        self.conv2, self.conv3 = nn.Conv2d(16, 32, 3, padding=1, groups=4), nn.Conv2d(32, CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv3(F.relu(self.conv2(self.act(self.conv1(x)))))


class Halving(nn.Module):
    """Down and up again by a transposed convolution, whose output is read beside its input (U-Net)."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(CHANNELS, 4, 1), nn.Conv2d(CHANNELS, 6, 1)
        self.down, self.up = nn.Conv2d(CHANNELS, 16, 2, stride=2), nn.ConvTranspose2d(16, CHANNELS, 2, stride=2)
        self.last = nn.Conv2d(10, CHANNELS, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.up(F.relu(self.down(x)))
        return x + self.last(torch.cat([F.relu(self.left(x)), self.right(x)], 1))


class ChannelNorm(nn.Module):
    """A norm over the channels of each position between two convolutions, which mixes them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm, self.conv2 = nn.Conv2d(CHANNELS, 16, 1), nn.LayerNorm(16), nn.Conv2d(16, CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.norm(self.conv1(x).movedim(1, -1)).movedim(-1, 1))


BLOCKS: dict[str, Any] = {
    "basic": Basic,
    "basic, group norm": lambda: Basic("group"),
    "basic, one group": lambda: Basic("odd groups"),
    "inverted": lambda: Inverted(excites=False),
    "squeeze and excitation": Inverted,
    "grouped": Grouped,
    "halving": Halving,
    "channel norm": ChannelNorm,
}


class Images(nn.Module):
    """Blocks between a stem and a linear head; for images."""

    def __init__(self, kind: str = "basic", blocks: int = 2, channels: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, CHANNELS, 3, padding=1)
        self.blocks = nn.Sequential(*(BLOCKS[kind]() for _ in range(blocks)))
        self.head = nn.Linear(CHANNELS, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Chain(nn.Module):
    """Convolutions over a sequence, without norms, flattened before the head; for images of one row."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.Sequential(nn.Conv1d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 8, 3, padding=1), nn.MaxPool1d(2))
        self.last, self.head = nn.Conv1d(8, 4, 3, padding=1), nn.Linear(4 * 8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.convs(x[:, None])).relu().flatten(1))
