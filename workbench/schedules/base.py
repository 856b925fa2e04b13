"""The contract of a pipeline schedule: its constraints, and the torch object that implements it."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from workbench.registry import register
from workbench.spec.options import Options

if TYPE_CHECKING:
    from torch.distributed.pipelining import PipelineStage

schedule = functools.partial(register, "schedule")


class Schedule(ABC):
    """The order in which a pipeline runs its microbatches."""

    name: ClassVar[str]
    Options: ClassVar[type[Options]] = Options

    @classmethod
    @abstractmethod
    def check(cls, num_stages: int, num_microbatches: int) -> None:
        """Raises:
        SplitError: the schedule cannot run this many microbatches through this many stages.
        """

    @classmethod
    @abstractmethod
    def build(cls, stage: PipelineStage, num_microbatches: int, loss: Callable[..., Any]) -> Any:
        """The torch schedule for this worker's stage."""
