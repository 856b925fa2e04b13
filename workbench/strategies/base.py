"""The contract of a strategy: one way to split work along one axis of the mesh."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from workbench.registration import Attribute, register
from workbench.spec.options import StrategyOptions, options_problem

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from workbench.plan.communication import Transfer
    from workbench.plan.lossy import Lossy
    from workbench.plan.model_summary import ModelSummary
    from workbench.plan.rank_view import RankView
    from workbench.spec.run_spec import RunSpec
    from workbench.strategies.worker_model import WorkerModel

O = TypeVar("O", bound=StrategyOptions)
Limiting = Literal["communication", "bubble", "imbalance"]
"""What may limit a run because of its split: communication along an axis, the order of a schedule, or unequal stages."""


@dataclass(frozen=True)
class Caption:
    """What communication of a step is for, in the diagram of a lesson."""

    sentence: str
    precedes_compute: bool = False
    """Whether workers receive, before they compute in this phase, the parts of blocks that they do not hold."""


class Strategy(ABC, Generic[O]):
    """One way to split work. A plugin is one file that says, in this order: options, ``check``, ``place`` and
    ``expected`` (formulas, no torch), ``apply`` (plain torch)."""

    name: ClassVar[str]
    Options: ClassVar[type[StrategyOptions]]
    axis: ClassVar[str]
    """The mesh axis whose workers share the work."""
    divides_axis: ClassVar[bool] = False
    """Whether it works within groups of neighbours along another strategy's axis, which without that one is a single group.
    Communication within these groups is recorded under the strategy's name."""
    apply_order: ClassVar[float]
    """Inside a worker: stages are cut first (0), then sequences (0.5), tensors (1) and experts (1.5), then data parallelism
    wraps the result (2)."""

    aliases: ClassVar[dict[str, dict[str, Any]]] = {}
    """Other names that a split may use for it, each with the options that it stands for."""

    examples: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Option sets for two workers by name ("" for the plain one), which the conformance suite runs on every model that
    ``check`` admits; none: the defaults."""

    captions: ClassVar[Mapping[tuple[str, str, str], Caption]] = {}
    """Axis, operation and phase of ``expected`` communication, with what it is for. By default the axis alone is named."""

    lessons: ClassVar[tuple[str, ...]] = ()
    """Files beside the strategy's own, each a lesson of the page Learn (docs/extending.md): ``lesson.md`` has the name of the
    strategy, another file its own name. By default none."""
    lesson_order: ClassVar[float] = math.inf
    """The place of its lessons on the page: those of lower order come first, equal ones by the strategy's name."""

    def __init__(self, options: O) -> None:
        self.options = options

    @property
    @abstractmethod
    def label(self) -> str:
        """Short name with what differs: ``pp2-1f1b-m4``."""

    @property
    def num_microbatches(self) -> int:
        """Equal pieces that it makes of a worker's part of the batch, computed one after the other; by default one."""
        return 1

    @abstractmethod
    def check(self, model: ModelSummary, spec: RunSpec) -> None:
        """Rejects a configuration that this strategy does not support.

        Raises:
            SplitError: the message includes the numbers.
        """

    @property
    def why_no_generation(self) -> str:
        """What keeps it from generating token by token, a sentence; empty where nothing does. By default it cannot: its
        ``expected`` must say what moves in ``spec.inference.passes``."""
        return "does not support generation; set inference.num_new_tokens = 0, or use data, layer, pipeline or tensor"

    @property
    def lossy(self) -> Lossy | None:
        """What it changes on purpose, gradients or parameters; by default nothing, and parity must hold."""
        return None

    @property
    def casts_parameters(self) -> bool:
        """Whether under mixed precision it hands blocks their parameters in ``worker.compute_dtype`` itself; by default
        ``build_worker`` does."""
        return False

    def advice(self, limit: Limiting, axis: str, spec: RunSpec) -> str:
        """What to try where ``limit`` along ``axis`` limits a run of ``spec``, a sentence; empty: nothing in particular."""
        return ""

    def place(self, model: ModelSummary, index: int) -> ModelSummary:
        """The part of the model that worker ``index`` of the axis holds; by default all of it."""
        return model

    def updates(self, held: ModelSummary, index: int) -> ModelSummary:
        """The part of what worker ``index`` of the axis holds that its optimizer updates; by default all of it."""
        return held

    def allocates(self, model: ModelSummary, index: int) -> ModelSummary:
        """What is allocated for the part that worker ``index`` of the axis holds; by default just that part."""
        return self.place(model, index)

    def buffers_unused(self, spec: RunSpec) -> bool:
        """Whether unused parameters have room for a gradient all the same, as in DDP's buckets; by default not."""
        return False

    def outputs_kept(self, index: int) -> int:
        """How many microbatches' outputs of its last block worker ``index`` of the axis keeps beside what their backward
        passes need."""
        return 0

    def in_flight(self, index: int) -> int | None:
        """The most of its microbatches whose activations worker ``index`` of the axis holds at once; None: no formula says."""
        return 1

    @abstractmethod
    def expected(self, model: ModelSummary, rank_view: RankView) -> list[Transfer]:
        """What one worker takes part in during one step, by formula. ``model`` is what this strategy finds when it is
        applied: the strategies before it have made their cuts."""

    @abstractmethod
    def apply(self, worker: WorkerModel, mesh: DeviceMesh) -> None:
        """Splits what the worker holds. ``mesh`` is the run's whole mesh, its dims named by axis."""

    def finish(self, worker: WorkerModel, mesh: DeviceMesh) -> None:
        """Wraps what the worker holds, once every strategy has made its cut and the run's options (activation
        checkpointing, compilation) are applied; the last to apply is the first to finish. By default not at all."""


strategy = register(
    "strategy",
    Strategy,
    (
        Attribute("Options", "Options = StrategyOptions", subclass_of=StrategyOptions),
        Attribute("axis", 'axis = "data"', (str,)),
        Attribute("apply_order", "apply_order = 2", (int, float)),
    ),
    options_problem,
)
