"""Groups of layers that tensor slicing cuts together, as a model declares them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LayerGroup(ABC):
    """Layers that are cut together. The dim is chosen once for all groups of the same kind."""

    kind: str
    """Kind of layers, for which a user chooses a cut: ``attention``, ``feedforward``, ``embedding``, ``head``, ``convolution`` or
    ``recurrent``. The loss of the model is the cross-entropy of the scores of a ``head``."""

    @property
    @abstractmethod
    def block(self) -> str:
        """Name of the block that contains these layers."""


@dataclass(frozen=True)
class ColumnRowPair(LayerGroup):
    """Two linear layers: ``column`` is cut by output features and ``row`` by input features (Megatron-LM, Shoeybi et al. 2019,
    section 3). Without a row layer, the output of the column layer is gathered. Without a column layer, the row layer (an
    embedding cut by vocabulary) needs no communication in backward."""

    column: str | None
    row: str | None
    width: int
    """Number of units that are divided between the workers: heads, hidden features or vocabulary entries. Must be divisible."""

    width_name: str
    """Name of these units in messages: ``heads``."""

    input_shape: tuple[int, ...]
    """Shape of the input of the column layer, per sample."""

    output_shape: tuple[int, ...]
    """Shape of the output of the pair, per sample."""

    takes_samples: bool = False
    """Whether the input is the samples themselves, which have no gradient."""

    @property
    def block(self) -> str:
        return (self.column or self.row or "").split(".", 1)[0]


@dataclass(frozen=True)
class Convolution:
    """A two-dimensional convolution without bias, and the norm that follows it."""

    path: str
    norm_path: str
    in_channels: int
    out_channels: int
    kernel: int
    """Number of rows and of columns of the kernel."""

    stride: int
    padding: int
    height: int
    """Number of rows of the input."""

    width: int
    """Number of columns of the input."""

    norm_groups: int | None
    """Number of channel groups that are normalized per sample (group norm); None for batch norm, which normalizes each channel
    over the batch."""

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
        """FLOPs of the forward pass of one sample: 2 per multiply-add, kernel² × input channels of them per output element."""
        channels, rows, columns = self.output_shape
        return 2 * self.kernel**2 * self.in_channels * channels * rows * columns


@dataclass(frozen=True)
class ConvolutionBlock(LayerGroup):
    """The convolutions of one block of a convolutional network."""

    role: Literal["stem", "residual"]
    """``stem``: one convolution of the images. ``residual``: two consecutive ones, and one on the shortcut if the shape
    changes."""

    convolutions: tuple[Convolution, ...]
    """The convolutions; of a residual block the first, the second and, if present, that of the shortcut."""

    @property
    def block(self) -> str:
        return self.convolutions[0].path.split(".", 1)[0]


@dataclass(frozen=True)
class GlobalPool(LayerGroup):
    """Mean over all rows and columns at the end of a convolutional network."""

    path: str
    input_shape: tuple[int, int, int]
    """(channels, height, width), per sample."""

    @property
    def block(self) -> str:
        return self.path.split(".", 1)[0]


@dataclass(frozen=True)
class RecurrentLayer(LayerGroup):
    """A recurrent layer. Its parameters are ``input_weight`` (hidden × gates, input), ``hidden_weight`` (hidden × gates, hidden),
    ``input_bias`` and ``hidden_bias``, with rows ordered by (hidden unit, gate) and gates in torch's order."""

    path: str
    cell: Literal["lstm", "gru"]
    sequence: int
    input_dim: int
    hidden_dim: int

    @property
    def num_gates(self) -> int:
        """Number of gates per hidden unit, including the candidate."""
        return {"lstm": 4, "gru": 3}[self.cell]

    @property
    def block(self) -> str:
        return self.path.split(".", 1)[0]
