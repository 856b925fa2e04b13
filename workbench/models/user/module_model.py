"""A model that is any ``nn.Module``: its blocks are found, and its own code runs in every stage."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from workbench.errors import SpecError
from workbench.models.base import Model
from workbench.plan.kept_tensors import kept_bytes
from workbench.plan.model_summary import ModelSummary
from workbench.plan.parity import BATCH_LOSS, BATCH_NORM, BatchDependence
from workbench.spec.options import ModelOptions

if TYPE_CHECKING:
    from torch import Tensor, nn

    from workbench.models.blocks_modules import Blocks
    from workbench.models.user.outputs_modules import LossFunction
    from workbench.models.user.structure_modules import Structure
    from workbench.plan.model_summary import BlockSummary
    from workbench.spec.run_spec import Inference

O = TypeVar("O", bound=ModelOptions)


class ModuleModel(Model[O]):
    """A model given by a function that builds it."""

    has_context: bool = False
    """Whether a strategy splits the sequence, so that it is tried if that can be."""

    @abstractmethod
    def build(self) -> nn.Module:
        """Returns the module with newly initialized parameters, the same for the same state of the generators of Python, numpy
        and torch."""

    @property
    def cut_at(self) -> tuple[str, ...]:
        """Paths of the modules after which it may be cut; by default all that are found."""
        return ()

    @property
    def loss_function(self) -> LossFunction | None:
        """The user's loss; None for the one that the module returns, or that of the data."""
        return None

    @property
    def takes_targets(self) -> bool:
        return self.loss_function is not None

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """Returns the loss that the last block returned beside its output; without one, that of the base class."""
        if isinstance(outputs, tuple):
            loss: Tensor = outputs[1]
            return loss
        return super().loss(outputs, targets)

    def main_output(self, outputs: Any) -> Tensor:
        output: Tensor = outputs[0] if isinstance(outputs, tuple) else outputs
        return output

    @property
    def why_no_generation(self) -> str:
        reason = self.summary().generation.refusal
        return f"{self.name} cannot generate: {reason}" if reason else ""

    def decoder(self, blocks: Any, options: Inference) -> Callable[..., Any]:
        from workbench.models.user.decoder_modules import CachedDecoder, WindowDecoder

        generation = self.summary().generation
        if generation.no_cache:
            return WindowDecoder(blocks, generation.sequence_length, options.prompt_length)
        return CachedDecoder(blocks)

    def scores(self, blocks: Blocks, tokens: Tensor) -> Tensor:
        from torch.nn.functional import pad

        num_positions = tokens.shape[1]
        if self.summary().generation.no_cache:  # which may need all positions
            tokens = pad(tokens, (0, self.data.input_shape[0] - num_positions))
        return self.main_output(blocks((tokens, ()) if self.takes_targets else tokens))[:, :num_positions]

    @property
    def has_own_weights(self) -> bool:
        return self.summary().loss_reduction in ("next targets", "sum")

    @property
    def weighs_pieces(self) -> bool:
        return self.summary().loss_reduction not in ("mean", "batch") and super().weighs_pieces

    def loss_weight(self, targets: Any) -> float:
        reduction = self.summary().loss_reduction
        if reduction is None:
            return super().loss_weight(targets)
        from workbench.models.user.loss_modules import weight_of

        return weight_of(reduction, targets)

    def failed_on_samples(self, error: Exception) -> SpecError:
        """Returns the refusal of a module whose forward pass over two samples of the dataset raised an exception."""
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
        return SpecError("model.name", f"{self.name} failed on two samples of the dataset: {reason}")

    @property
    def batch_dependence(self) -> BatchDependence | None:
        summary = self.summary()
        if summary.batch_norms:
            return BATCH_NORM
        if summary.loss_reduction == "batch":
            return BATCH_LOSS
        return summary.state.dependence if summary.state else None

    def kept_bytes_of_stage(
        self, held: Sequence[BlockSummary], positions: int | None, element_bytes: int, checkpointing: str
    ) -> int | None:
        """Returns what was measured of these blocks; None if nothing was, or for cut layers or recomputed blocks."""
        summary = self.summary()
        names = [block.name for block in summary.blocks]
        indices = [names.index(block.name) for block in held]
        stage = range(indices[0], indices[-1] + 1)
        is_whole = all(block.parameters == summary.blocks[index].parameters for block, index in zip(held, indices, strict=True))
        if summary.kept is None or checkpointing != "none" or list(stage) != indices or not is_whole:
            return None
        if summary.copied_at.intersection((stage[0] - 1, stage[-1])):
            return None  # what the code between blocks writes in place is computed on both sides
        return kept_bytes(summary.kept, stage, element_bytes)

    def summary(self) -> ModelSummary:
        return self._inspected[1]

    def find_structure(self) -> None:
        """Finds where the module can be cut, which is then known; otherwise when its blocks are first built."""
        self._structure  # noqa: B018 - cached

    @property
    def _structure(self) -> Structure | None:
        return self._inspected[0]

    @cached_property
    def _inspected(self) -> tuple[Structure | None, ModelSummary]:
        from workbench.models.user.inspect_modules import inspected

        return inspected(self)

    def build_block(self, block: str) -> nn.Module:
        from workbench.models.user.summary_modules import modules_of_blocks

        return modules_of_blocks(self.build(), self._structure)[block]

    def build_blocks(self, names: Sequence[str], seed_of: Callable[[str], int]) -> Blocks:
        import random

        import numpy as np
        import torch

        from workbench.models.user.inspect_modules import built_blocks

        structure, seed = self._structure, seed_of(self.summary().blocks[0].name)  # finding it draws random numbers
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        return built_blocks(self, structure, names)
