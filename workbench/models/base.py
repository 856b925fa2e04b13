"""Defines the contract of a model: ordered, named blocks, and what a planner needs to know about them. A model knows nothing
about parallelism."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, TypeVar

from pydantic import Field

from workbench.plan.loss_weights import IGNORED
from workbench.registry import Attribute, register
from workbench.spec.options import ModelOptions, options_problem

if TYPE_CHECKING:
    from torch import Tensor, nn

    from workbench.data.base import DatasetSummary
    from workbench.models.blocks_modules import Blocks
    from workbench.plan.model_summary import BlockSummary, ModelSummary
    from workbench.plan.parity import BatchDependence
    from workbench.spec.run_spec import Inference

O = TypeVar("O", bound=ModelOptions)
Dropout = Annotated[float, Field(ge=0, lt=1)]
"""Probability with which dropout zeroes an element."""


class Model(ABC, Generic[O]):
    """A model for a given dataset.

    A block is a module that takes one tensor (batch, …) and returns one; the model applies its blocks one after the other. Each
    block is built separately, so a worker that holds two blocks never allocates the others.

    Raises:
        SpecError: from the constructor, if the data does not fit the model.
    """

    name: ClassVar[str]
    Options: ClassVar[type[ModelOptions]]
    default_dataset: ClassVar[str | dict[str, Any]]
    """Default dataset of a spec that names none: its name, or its name and options."""

    examples: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named variants that run in moments ("" is the plain one), as parts of a spec such as ``{"model": {"num_layers": 2},
    "dataset": "digits"}``. The conformance suite runs them; by default it runs the default options."""

    generates: bool = False
    """Whether the run generates tokens."""

    def __init__(self, options: O, data: DatasetSummary) -> None:
        self.options = options
        self.data = data

    @property
    def has_cache(self) -> bool:
        """Whether its blocks support a key/value cache, which lets them process one position after the other
        (``models/kv_cache.py``)."""
        return False

    @property
    def why_no_generation(self) -> str:
        """Why it cannot generate, a sentence; empty if it can."""
        if self.has_cache:
            return ""
        of = f" with capacity_factor = {capacity}" if (capacity := getattr(self.options, "capacity_factor", None)) else ""
        return (
            f"{self.name}{of} does not support generation with a key/value cache; use transformer, or moe without capacity_factor"
        )

    def decoder(self, blocks: Blocks, options: Inference) -> Callable[..., Any]:
        """Returns a function that calls the blocks in generation: the input of each call has the positions that follow those of
        the previous calls. It returns the scores of the last position, or what crosses the cut after the blocks."""
        from workbench.models.kv_cache import Decoder

        return Decoder(blocks, options.num_cached)

    def scores(self, blocks: Blocks, tokens: Tensor) -> Tensor:
        """Returns the scores of all blocks for tokens (batch, positions), of all positions, without a cache."""
        scores: Tensor = blocks(tokens)
        return scores

    @property
    def batch_dependence(self) -> BatchDependence | None:
        """Why the result for a sample depends on other samples of the batch (batch norm, the capacity of a router), so that a
        replica or a microbatch differs from one worker on the whole batch; None if it does not."""
        return None

    @property
    def depends_on_batch(self) -> bool:
        """Whether the result for a sample depends on other samples of the batch."""
        return self.batch_dependence is not None

    def kept_bytes(self, held: BlockSummary, positions: int | None, element_bytes: int, checkpointing: str) -> int | None:
        """Returns the bytes that the forward pass of a block saves for backward, per sample: its output but not its input, and in
        the last block also what the loss saves. By default None, without a formula.

        Args:
            held: The block on a worker, with its layers cut.
            positions: Number of positions of the sequence that the worker computes.
        """
        return None

    def kept_bytes_of_stage(
        self, held: Sequence[BlockSummary], positions: int | None, element_bytes: int, checkpointing: str
    ) -> int | None:
        """Returns the bytes that the forward pass of a stage saves for backward, per sample; by default those of its blocks.

        Args:
            held: The blocks on a worker, with their layers cut.
            positions: Number of positions of the sequence that the worker computes.
        """
        kept = [self.kept_bytes(block, positions, element_bytes, checkpointing) for block in held]
        known = [each for each in kept if each is not None]
        return sum(known) if len(known) == len(kept) else None

    @abstractmethod
    def summary(self) -> ModelSummary:
        """Returns blocks, parameters, layer groups and FLOPs by formula, equal to what ``build_block`` builds."""

    @abstractmethod
    def build_block(self, block: str) -> nn.Module:
        """Returns the block of this name with newly initialized parameters."""

    def build_blocks(self, names: Sequence[str], seed_of: Callable[[str], int]) -> Blocks:
        """Returns the blocks with these names, each initialized from its own seed: values do not depend on the split."""
        from collections import OrderedDict

        import torch

        from workbench.models.blocks_modules import Blocks
        from workbench.models.dropout_modules import substitute_dropout

        def built(name: str) -> nn.Module:
            torch.manual_seed(seed_of(name))
            return substitute_dropout(self.build_block(name))

        return Blocks(OrderedDict((name, built(name)) for name in names))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean cross-entropy of outputs (batch, …, classes) against targets (batch, …), or, if the data has values to
        predict, the mean squared error of outputs (batch, …) with as many values per sample; a scalar."""
        from torch.nn.functional import cross_entropy, mse_loss

        if self.data.has_numbers:
            return mse_loss(outputs.reshape(targets.shape), targets)
        return cross_entropy(outputs.flatten(0, -2), targets.flatten())

    def main_output(self, outputs: Any) -> Tensor:
        """Returns the outputs (batch, …) that parity compares, given what the last block returns; by default all."""
        output: Tensor = outputs
        return output

    @property
    def takes_targets(self) -> bool:
        """Whether the blocks receive ``(inputs, targets)`` in place of the inputs, since the last of them computes the loss."""
        return False

    @property
    def has_own_weights(self) -> bool:
        """Whether ``loss_weight`` counts something else than targets that are not ignored."""
        return type(self).loss_weight is not Model.loss_weight

    @property
    def weighs_pieces(self) -> bool:
        """Whether equal pieces of a batch may differ in ``loss_weight``."""
        return self.has_own_weights or (self.data.has_ignored_targets and not self.data.has_numbers)

    def loss_weight(self, targets: Tensor) -> float:
        """Returns the weight of a piece of a batch: the number of targets (batch, …) whose mean is its ``loss``. By default all
        targets count, except integers of −100, which cross-entropy ignores. A loss with another mean, such as one with its own
        ``ignore_index`` or class weights, must override this; otherwise splits differ from one worker."""
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
