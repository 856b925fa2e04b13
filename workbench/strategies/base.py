"""Defines the contract of a strategy: one way to split work along one axis of the mesh."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from workbench.plan.placement import Placement
from workbench.registry import Attribute, register
from workbench.spec.options import StrategyOptions, options_problem

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from workbench.plan.communication import ExpectedCommunication
    from workbench.plan.lossy import Lossy
    from workbench.plan.model_summary import ModelSummary
    from workbench.plan.rank_view import RankView
    from workbench.spec.run_spec import RunSpec
    from workbench.strategies.worker_model import WorkerModel

O = TypeVar("O", bound=StrategyOptions)
Limiting = Literal["communication", "bubble", "imbalance"]
"""What may limit a run because of its split: communication along an axis, the order of a schedule, or unequal stages."""


class ApplyOrder(float, Enum):
    """What a strategy splits. Strategies are applied in this order, and finish in the reverse order. The numbers are those that
    plugins gave before; they are equal to the members."""

    STAGES = 0
    SEQUENCES = 0.5
    TENSORS = 1
    EXPERTS = 1.5
    DATA = 2


@dataclass(frozen=True)
class Caption:
    """Purpose of a communication of a step, in the diagram of a lesson."""

    sentence: str
    precedes_compute: bool = False
    """Whether it delivers parts of blocks that workers do not hold, before they compute in this phase."""


class Strategy(ABC, Generic[O]):
    """One way to split work. A plugin is one file or folder that defines, in this order: the options; ``check``, which rejects
    unsupported configurations; ``place``, what each rank holds; ``expected``, the communication volume by formula;
    ``apply``, plain torch. Only ``apply`` and ``finish`` may import torch."""

    name: ClassVar[str]
    Options: ClassVar[type[StrategyOptions]]
    axis: ClassVar[str]
    """The mesh axis along which the work is split."""
    divides_axis: ClassVar[bool] = False
    """Whether it splits work within groups of neighbours along the axis of another strategy; without that strategy all workers
    are one group. Communication within these groups is recorded under the strategy's name."""
    apply_order: ClassVar[ApplyOrder]
    """What it splits, which determines when it is applied."""

    aliases: ClassVar[dict[str, dict[str, Any]]] = {}
    """Other names of the strategy in a split, each with the options that it implies."""

    examples: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named option sets for two workers ("" is the plain one). The conformance suite runs them on every model that ``check``
    accepts; by default it runs the default options."""

    captions: ClassVar[Mapping[tuple[str, str, str], Caption]] = {}
    """(axis, operation, phase) of ``expected`` communication → its purpose. By default only the axis is named."""

    lessons: ClassVar[tuple[str, ...]] = ()
    """Files beside the strategy's own, each a lesson of the page Learn (docs/extending.md): ``lesson.md`` has the name of the
    strategy, another file its own name. By default none."""
    lesson_order: ClassVar[float] = math.inf
    """Position of its lessons on the page: in ascending order, with ties broken by the name of the strategy."""

    def __init__(self, options: O) -> None:
        self.options = options

    @classmethod
    def plain_options(cls, size: int) -> dict[str, Any]:
        """Returns its options on ``size`` workers where a split names the strategy alone; by default those of the example "", or
        of the first."""
        return {**cls.examples.get("", next(iter(cls.examples.values()), {})), "size": size}

    @property
    @abstractmethod
    def label(self) -> str:
        """Short name with the options that differ from the defaults: ``pp2-1f1b-m4``."""

    @property
    def num_microbatches(self) -> int:
        """Number of microbatches that a worker's part of the batch is divided into; by default one."""
        return 1

    @abstractmethod
    def check(self, model: ModelSummary, spec: RunSpec) -> None:
        """Rejects a configuration that this strategy does not support.

        Raises:
            SplitError: the message includes the numbers.
        """

    @property
    def why_no_generation(self) -> str:
        """Why the strategy does not support generation, a clause; empty if it does. By default unsupported: ``expected`` must
        return the communication of the passes in ``model.generation.passes``."""
        return "does not support generation; set inference.num_new_tokens = 0, or use data, layer, pipeline or tensor"

    @property
    def lossy(self) -> Lossy | None:
        """The declared change of gradients or parameters; by default None, and parity must hold."""
        return None

    @property
    def casts_parameters(self) -> bool:
        """Whether the strategy itself casts parameters to ``worker.compute_dtype`` under mixed precision; by default
        ``build_worker`` does."""
        return False

    def advice(self, limit: Limiting, axis: str, spec: RunSpec) -> str:
        """Returns a suggestion for a run of ``spec`` that is limited by ``limit`` along ``axis``, one sentence; empty without
        one."""
        return ""

    def note(self, model: ModelSummary, spec: RunSpec) -> str:
        """Returns what the strategy chooses for this model though no option says so, with the reason: a clause that ``inspect``
        shows; empty without one."""
        return ""

    def place(self, model: ModelSummary, index: int) -> Placement:
        """Returns what worker ``index`` of the axis holds; by default all of the model.

        Args:
            model: the part of the model that remains after the strategies applied before this one.
            index: position of the worker along the axis.
        """
        return Placement(model)

    @abstractmethod
    def expected(self, model: ModelSummary, rank_view: RankView) -> list[ExpectedCommunication]:
        """Returns the communication of one worker in one step, by formula.

        Args:
            model: the part of the model that remains after the strategies applied before this one.
            rank_view: position, samples and final part of the model of the worker.
        """

    @abstractmethod
    def apply(self, worker: WorkerModel, mesh: DeviceMesh) -> None:
        """Splits the worker's model. ``mesh`` is the mesh of the run, with the axes as the names of its dims."""

    def finish(self, worker: WorkerModel, mesh: DeviceMesh) -> None:
        """Wraps the worker's model after all strategies, activation checkpointing and compilation are applied. Called in the
        reverse order of ``apply``; by default does nothing."""


strategy = register(
    "strategy",
    Strategy,
    (
        Attribute("Options", "Options = StrategyOptions", subclass_of=StrategyOptions),
        Attribute("axis", 'axis = "data"', (str,)),
        Attribute("apply_order", "apply_order = ApplyOrder.DATA", member_of=ApplyOrder),
    ),
    options_problem,
)
