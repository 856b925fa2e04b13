"""The shortest way to a model of one's own: its modules alone; what a planner must know of them is found out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from workbench.models.base import Model
from workbench.plan.layer_groups import LayerGroup
from workbench.plan.model_summary import ModelSummary
from workbench.plan.parity import BATCH_NORM, BatchDependence
from workbench.spec.options import ModelOptions

if TYPE_CHECKING:
    from torch import nn

O = TypeVar("O", bound=ModelOptions)


class OwnModel(Model[O]):
    """A model whose summary is made by passing samples without data through its blocks on torch's ``meta`` device, forward
    and backward: which parameters are frozen (``requires_grad_(False)``), unused, or shared by several blocks is found there.

    A subclass gives ``blocks``, its ``default_dataset``, and where it has options of its own, ``Options``.
    """

    Options = ModelOptions

    @abstractmethod
    def blocks(self) -> Mapping[str, Callable[[], nn.Module]]:
        """Of each block by its name, in order, what makes it: a worker makes none but its own. Each takes and returns one
        tensor (batch, …); ``self.data`` has the shapes of the samples. What several blocks share, a parameter or a module,
        is made here, so that each call makes it anew."""

    def groups(self) -> tuple[LayerGroup, ...]:
        """Layers that tensor slicing can cut; none unless said."""
        return ()

    @property
    def batch_dependence(self) -> BatchDependence | None:
        return BATCH_NORM if self._summary.batch_norms else None

    def build_block(self, block: str) -> nn.Module:
        return self.blocks()[block]()

    def summary(self) -> ModelSummary:
        return self._summary

    @cached_property
    def _summary(self) -> ModelSummary:
        from workbench.models.inferred_modules import summary_of

        return summary_of(self)
