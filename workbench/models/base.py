"""The contract of a model: ordered, named blocks, and what a planner must know of them. It knows nothing of parallelism."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, TypeVar

from pydantic import Field

from workbench.plan.loss_weights import IGNORED
from workbench.registration import Attribute, register
from workbench.spec.options import ModelOptions, options_problem

if TYPE_CHECKING:
    from torch import Tensor, nn

    from workbench.data.base import DatasetSummary
    from workbench.plan.model_summary import BlockSummary, ModelSummary
    from workbench.plan.parity import BatchDependence

O = TypeVar("O", bound=ModelOptions)
Dropout = Annotated[float, Field(ge=0, lt=1)]
"""Probability with which dropout zeroes an element."""


class Model(ABC, Generic[O]):
    """A model for given data.

    A block is a module that takes one tensor (batch, …) and returns one; the model is its blocks one after the other.
    Each block is built by itself, so a worker that holds two blocks never holds the others.

    Raises:
        SpecError: from the constructor, when the data does not fit the model.
    """

    name: ClassVar[str]
    Options: ClassVar[type[ModelOptions]]
    default_dataset: ClassVar[str | dict[str, Any]]
    """Name, or name and options, of the data that a spec which names none is run on."""

    examples: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Variants so small that they run in a moment, by name ("" for the plain one): parts of a spec, such as
    ``{"model": {"num_layers": 2}, "dataset": "digits"}``. They are what the conformance suite runs; none: the defaults."""

    def __init__(self, options: O, data: DatasetSummary) -> None:
        self.options = options
        self.data = data

    @property
    def has_cache(self) -> bool:
        """Whether its blocks, fed position after position, remember those before (``models/kv_cache.py``)."""
        return False

    @property
    def batch_dependence(self) -> BatchDependence | None:
        """Why what it computes of a sample depends on the samples beside it (batch norm, a router's capacity), so that a
        replica or a microbatch computes something else than one worker does of the whole batch; None: it does not."""
        return None

    @property
    def depends_on_batch(self) -> bool:
        """Whether what it computes of a sample depends on the samples beside it."""
        return self.batch_dependence is not None

    def kept_bytes(self, held: BlockSummary, positions: int | None, element_bytes: int, checkpointing: str) -> int | None:
        """What a block's forward pass of one sample keeps for backward, its output included and its input not; of the last
        block also what the loss keeps. By default no formula says.

        Args:
            held: the block as a worker holds it, its layers cut where they are.
            positions: of the sequence, that the worker computes.
        """
        return None

    @abstractmethod
    def summary(self) -> ModelSummary:
        """Blocks, parameters, pairs and FLOPs by formula; equal to what ``build_block`` builds."""

    @abstractmethod
    def build_block(self, block: str) -> nn.Module:
        """The block of this name with freshly initialised parameters."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of outputs (batch, …, classes) against targets (batch, …); where the data has numbers to predict,
        their mean squared error, outputs (batch, …) holding as many for each sample; a scalar."""
        from torch.nn.functional import cross_entropy, mse_loss

        if self.data.has_numbers:
            return mse_loss(outputs.reshape(targets.shape), targets)
        return cross_entropy(outputs.flatten(0, -2), targets.flatten())

    def loss_weight(self, targets: Tensor) -> float:
        """The weight of a piece of a batch: of how many targets (batch, …) its ``loss`` is the mean. By default of integers
        those that are not −100, which cross-entropy ignores, and all others. A loss of another mean, such as with an
        ``ignore_index`` of its own or with class weights, overrides it: else a split does not compute what one worker does."""
        return targets.numel() if targets.is_floating_point() else int((targets != IGNORED).sum())


model = register(
    "model",
    Model,
    (
        Attribute("Options", "Options = MyOptions", subclass_of=ModelOptions),
        Attribute("default_dataset", 'default_dataset = "digits"', (str, dict)),
    ),
    options_problem,
)
