"""The shortest way to define a model: its modules alone. The planner infers the rest from them."""

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
    """A model whose summary is inferred by passing samples without data through its blocks on torch's ``meta`` device, forward
    and backward. This also finds parameters that are frozen (``requires_grad_(False)``), unused, or shared by several blocks.

    A subclass defines ``blocks``, its ``default_dataset`` and, if it has options, ``Options``.
    """

    Options = ModelOptions

    @abstractmethod
    def blocks(self) -> Mapping[str, Callable[[], nn.Module]]:
        """Returns the factory of each block by its name, in order; a worker calls only those of its own blocks. Each block takes
        and returns one tensor (batch, …); ``self.data`` has the shapes of the samples. A parameter or module that blocks share
        must be created here, so that each call creates a new one."""

    def groups(self) -> tuple[LayerGroup, ...]:
        """Returns the groups of layers that tensor slicing can cut; by default none."""
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
