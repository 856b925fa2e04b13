"""Lookup of the slicing class of a group of layers."""

from __future__ import annotations

from typing import Any

from workbench.plan.layer_groups import ConvolutionBlock, GlobalPool, LayerGroup, RecurrentLayer
from workbench.strategies.tensor.base import Slicing
from workbench.strategies.tensor.convolution import ConvolutionSlicing, PoolSlicing
from workbench.strategies.tensor.linear import AttentionSlicing, EmbeddingSlicing, FeedForwardSlicing, OutputHeadSlicing
from workbench.strategies.tensor.recurrent import RecurrentSlicing

__all__ = ["Slicing", "slicing_of"]

_BY_TYPE: dict[type[LayerGroup], type[Slicing[Any]]] = {
    ConvolutionBlock: ConvolutionSlicing,
    GlobalPool: PoolSlicing,
    RecurrentLayer: RecurrentSlicing,
}
_BY_KIND: dict[str, type[Slicing[Any]]] = {
    "attention": AttentionSlicing,
    "feedforward": FeedForwardSlicing,
    "embedding": EmbeddingSlicing,
    "head": OutputHeadSlicing,
}


def slicing_of(group: LayerGroup) -> type[Slicing[Any]]:
    """Returns the class that slices this group of layers."""
    return _BY_TYPE.get(type(group)) or _BY_KIND[group.kind]
