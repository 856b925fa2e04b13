"""Groups of layers that tensor slicing cuts together: what a model says of itself so that it can be cut."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LayerGroup(ABC):
    """Layers that are cut together, and along which dim is chosen once for all groups of the same kind."""

    kind: str
    """What users call such layers when they choose a cut: ``attention``, ``feedforward``, ``embedding``, ``head``,
    ``convolution``, ``recurrent``. A ``head`` gives the scores that the model's loss is the cross-entropy of."""

    @property
    @abstractmethod
    def block(self) -> str:
        """Name of the block that holds these layers."""


@dataclass(frozen=True)
class ColumnRowPair(LayerGroup):
    """Linear layers: ``column`` is cut by output features, ``row`` by input features (Megatron-LM, Shoeybi et al. 2019,
    section 3). Without a row layer the column layer's output is gathered; without a column layer the row layer (an
    embedding, cut by vocabulary) needs no backward communication."""

    column: str | None
    row: str | None
    width: int
    """What is divided between the workers: heads, hidden features, vocabulary entries. Must be divisible."""

    width_name: str
    """What the width counts, for messages: ``heads``."""

    input_shape: tuple[int, ...]
    """Shape of the column layer's input, per sample."""

    output_shape: tuple[int, ...]
    """Shape of the pair's output, per sample."""

    @property
    def block(self) -> str:
        return (self.column or self.row or "").split(".", 1)[0]


@dataclass(frozen=True)
class Convolution:
    """A two-dimensional convolution without bias, and the norm after it."""

    path: str
    norm_path: str
    in_channels: int
    out_channels: int
    kernel: int
    """Rows and columns of the kernel."""

    stride: int
    padding: int
    height: int
    """Rows of its input."""

    width: int
    """Columns of its input."""

    norm_groups: int | None
    """Groups of channels that the norm treats together, each sample by itself (group norm); None: every channel by
    itself over the whole batch (batch norm)."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return (self.in_channels, self.height, self.width)

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        rows, columns = ((side + 2 * self.padding - self.kernel) // self.stride + 1 for side in (self.height, self.width))
        return (self.out_channels, rows, columns)

    @property
    def forward_flops(self) -> int:
        """Of one sample: 2 per multiply-add, kernel² × input channels of them per output element."""
        channels, rows, columns = self.output_shape
        return 2 * self.kernel**2 * self.in_channels * channels * rows * columns


@dataclass(frozen=True)
class ConvolutionBlock(LayerGroup):
    """The convolutions of one block of a convolutional net."""

    role: Literal["stem", "residual"]
    """``stem``: one convolution of the images. ``residual``: two in turn, and one on the shortcut where the shape changes."""

    convolutions: tuple[Convolution, ...]
    """Of a residual block the first, the second and, where there is one, the shortcut's."""

    @property
    def block(self) -> str:
        return self.convolutions[0].path.split(".", 1)[0]


@dataclass(frozen=True)
class GlobalPool(LayerGroup):
    """The mean over all rows and columns that ends a convolutional trunk."""

    path: str
    input_shape: tuple[int, int, int]
    """(channels, height, width), per sample."""

    @property
    def block(self) -> str:
        return self.path.split(".", 1)[0]


@dataclass(frozen=True)
class RecurrentLayer(LayerGroup):
    """A layer that steps through a sequence. Its parameters are ``input_weight`` (hidden × gates, input), ``hidden_weight``
    (hidden × gates, hidden), ``input_bias`` and ``hidden_bias``, rows ordered (hidden unit, gate), gates in torch's order."""

    path: str
    cell: Literal["lstm", "gru"]
    sequence: int
    input_dim: int
    hidden_dim: int

    @property
    def num_gates(self) -> int:
        """Gates of one hidden unit, the candidate counted."""
        return {"lstm": 4, "gru": 3}[self.cell]

    @property
    def block(self) -> str:
        return self.path.split(".", 1)[0]
