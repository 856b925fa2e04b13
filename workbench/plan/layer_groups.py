"""Groups of layers that tensor slicing cuts together: what a model says of itself so that it can be cut."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerGroup:
    """Layers that are cut together, and along which dim is chosen once for all groups of the same kind."""

    kind: str
    """What users call such layers when they choose a cut: ``attention``, ``feedforward``, ``embedding``, ``head``."""


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
