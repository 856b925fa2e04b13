"""A user's own optimizer: a callable that returns a ``torch.optim.Optimizer`` of named parameters."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from workbench.code_parts import OPTIMIZER
from workbench.registry import is_source
from workbench.sources.inspection import Inspection, Inspector
from workbench.sources.live import callable_source
from workbench.sources.source import Source
from workbench.spec.train import Train

if TYPE_CHECKING:
    from workbench.plan.model_summary import ParameterSummary


@dataclass(frozen=True)
class Found:
    """What is known of an optimizer without building it."""

    state: dict[str, tuple[float, int]] | None
    """Name of each parameter that it updates → elements of state per element, and bytes of state besides; None if it was too
    large to be built, or if its state is not proportional to the parameter."""

    has_learning_rate: bool
    """Whether each parameter group has ``lr``, which the learning-rate schedule scales."""

    can_shard: bool
    """Whether its class takes a list of its own parameter groups, from which ZeRO-1 builds each worker's."""


@dataclass(frozen=True)
class Request:
    """What the process is asked."""

    name: str
    folder: str
    options: dict[str, Any]
    learning_rate: float
    parameters: tuple[tuple[str, tuple[int, ...]], ...]
    """Name and shape of each parameter that is trained."""


INSPECTOR = Inspector("workbench.runtime.optimizer_process", Found)
"""The inspector of users' optimizers, which keeps the answers in this process."""


class UserOptimizer:
    """An optimizer from a user's own code. Its state is found by building it once, in a process of its own.

    Args:
        parameters: The parameters of the unsplit model.
    """

    def __init__(self, train: Train, parameters: Iterable[ParameterSummary]) -> None:
        self.train = train
        self.parameters = tuple((p.name, p.shape) for p in parameters)

    @property
    def source(self) -> Source:
        """The callable."""
        return optimizer_source(self.train)

    @functools.cached_property
    def inspection(self) -> Inspection[Found]:
        """What was found in it, and its code.

        Raises:
            SpecError: it cannot be built, or takes no step.
        """
        return INSPECTOR.inspect(self.source, self.train.optimizer_folder, self._question)

    @property
    def found(self) -> Found:
        """What is known of it without building it."""
        found = self.inspection.found
        assert found is not None, "a refused optimizer raises"
        return found

    def recorded_form(self, folder: Path) -> bytes:
        """Returns the contents of the file from which this is answered for code that is recorded in a folder."""
        return INSPECTOR.recorded_form(self.source, self._question, self.inspection, folder)

    @property
    def _question(self) -> dict[str, Any]:
        return {
            "options": self.train.optimizer_options,
            "learning_rate": self.train.learning_rate,
            "parameters": [[name, list(shape)] for name, shape in self.parameters],
        }


def request_of(contents: bytes) -> Request:
    """Returns the request that the process got."""
    return TypeAdapter(Request).validate_json(contents)


def optimizer_source(train: Train) -> Source:
    """Returns the callable that a spec names.

    Raises:
        SpecError: it has none of the forms.
    """
    assert is_source(train.optimizer), f"{train.optimizer} is built in"
    return callable_source(train.optimizer, OPTIMIZER.path, train.optimizer_folder)
