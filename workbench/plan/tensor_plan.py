"""The tensor plan of a user's model: which of its modules are cut, how, and what that communicates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from workbench.plan.layer_groups import LayerGroup

Style = Literal["column", "row", "channel", "heads", "vocabulary", "hidden"]
"""How a module is cut: a linear layer or a convolution by output features (``column``) or by input features (``row``), what lies
between and treats features separately, such as a depthwise convolution or a batch norm, by ``channel``; ``nn.MultiheadAttention``
by ``heads``; an embedding table or a head by the entries of the vocabulary, or an embedding table by its ``hidden`` features. The
output of a row layer and of attention is summed over the workers, and so is that of an embedding table by entries; the output of
a head or of a table by features is gathered."""


@dataclass(frozen=True)
class SlicedModule:
    """A module that is cut."""

    path: str
    style: Style
    sections: tuple[int, ...] = ()
    """Sizes of the consecutive parts of its features that are cut each, such as query, key and value; empty for one."""


@dataclass(frozen=True)
class SlicedParameter:
    """A parameter of which each worker holds a slice."""

    name: str
    """Its name in the summary of the model."""

    dim: int
    sections: tuple[int, ...] = ()
    """As of the module."""


@dataclass(frozen=True)
class DividedAttribute:
    """An integer attribute that the module's own code reads, such as its number of heads, and that is divided by the number of
    workers."""

    path: str
    """Path of the module."""

    name: str


@dataclass(frozen=True)
class SliceCommunication:
    """A collective of the pass of one sample."""

    operation: str
    phase: str
    elements: int
    """Number of elements per sample of the full tensor."""


@dataclass(frozen=True)
class ModuleSlices(LayerGroup):
    """Modules of a user's model that are cut together: layers by columns, those that use their outputs by rows and what lies
    between by channel, or a single table or head. Found by computing, and verified (``runtime/tensor_plan``)."""

    modules: tuple[SlicedModule, ...]
    parameters: tuple[SlicedParameter, ...]
    units: int
    """Number that the number of workers must divide, such as that of heads."""

    blocks: tuple[str, ...]
    """Names of the blocks that hold the modules."""

    attributes: tuple[DividedAttribute, ...] = ()
    narrowed: str | None = None
    """Path of the module that is given a part of the features of its input, for code that takes its sizes from it; columns get
    all."""

    summed: tuple[str, ...] = ()
    """Whole parameters, by their names in the summary, of which each worker computes a part of the gradient."""

    communication: tuple[SliceCommunication, ...] = ()
    repeated: tuple[SliceCommunication, ...] = ()
    """Communication that backward adds if activation checkpointing recomputes every block."""

    @property
    def block(self) -> str:
        return self.blocks[0]

    def of_positions(self, size: int) -> ModuleSlices:
        """Returns the group with what it communicates for one of ``size`` equal parts of the positions of each sample."""

        def part(communication: tuple[SliceCommunication, ...]) -> tuple[SliceCommunication, ...]:
            return tuple(replace(c, elements=c.elements // size) for c in communication)

        return replace(self, communication=part(self.communication), repeated=part(self.repeated))


@dataclass(frozen=True)
class RejectedSlices:
    """Modules that look as if they could be cut, but cannot."""

    modules: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class TensorPlan:
    """How the modules of a model can be cut along the tensor axis."""

    groups: tuple[ModuleSlices, ...] = ()
    rejected: tuple[RejectedSlices, ...] = ()
