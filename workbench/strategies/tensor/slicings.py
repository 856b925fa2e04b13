"""The slicings of a model: the class that cuts each group of its layers, and the dim that it cuts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.plan.layer_groups import ConvolutionBlock, GlobalPool, LayerGroup, RecurrentLayer
from workbench.plan.tensor_plan import ModuleSlices
from workbench.strategies.tensor.base import Slicing
from workbench.strategies.tensor.convolution import ConvolutionSlicing, PoolSlicing
from workbench.strategies.tensor.linear import AttentionSlicing, EmbeddingSlicing, FeedForwardSlicing, OutputHeadSlicing
from workbench.strategies.tensor.modules import ModuleSlicing
from workbench.strategies.tensor.recurrent import RecurrentSlicing

if TYPE_CHECKING:
    from workbench.plan.model_summary import ModelSummary
    from workbench.strategies.tensor import TensorOptions

REPLICATED = "none"
"""Value of the option ``cut`` that leaves the layers of a kind whole on every worker."""

_BY_TYPE: dict[type[LayerGroup], type[Slicing[Any]]] = {
    ConvolutionBlock: ConvolutionSlicing,
    GlobalPool: PoolSlicing,
    RecurrentLayer: RecurrentSlicing,
    ModuleSlices: ModuleSlicing,
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


def slicings_of(model: ModelSummary, options: TensorOptions) -> list[Slicing[Any]]:
    """Returns the slicing of each group of layers that is cut. Modules of a user's model that cannot be cut into so many parts
    stay whole."""
    slicings = []
    for group in model.groups:
        if isinstance(group, ModuleSlices) and group.units % options.size:
            continue
        slicing = slicing_of(group)
        dim = options.cut.get(group.kind, slicing.dims[0])
        if dim != REPLICATED:
            flags = {"sequence_parallel": options.sequence_parallel, "parallel_loss": options.parallel_loss}
            slicings.append(slicing(group, dim, options.size, **flags))
    return slicings


def cut_dims(model: ModelSummary, options: TensorOptions) -> dict[str, int]:
    """Returns the dim along which each sliced parameter is cut, by name."""
    return {name: dim for slicing in slicings_of(model, options) for name, dim in slicing.cut().items()}
