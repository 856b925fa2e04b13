"""Defines the contract of a pipeline schedule: its constraints, and the torch object that implements it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from workbench.errors import SplitError
from workbench.messages import counted, listed
from workbench.registry import Attribute, register
from workbench.spec.options import Options, options_problem

if TYPE_CHECKING:
    from torch.distributed.pipelining import PipelineStage

    from workbench.plan.model_summary import ModelSummary
    from workbench.spec.run_spec import RunSpec
    from workbench.strategies.pipeline import PipelineOptions


def divisors(whole: int) -> str:
    """Lists the numbers of equal pieces: ``1, 2 or 4``."""
    return listed([str(count) for count in range(1, whole + 1) if whole % count == 0], "or")


class Schedule(ABC):
    """The order in which a pipeline runs its microbatches."""

    name: ClassVar[str]
    Options: ClassVar[type[Options]] = Options
    """Options of the schedule, given beside those of the pipeline: ``pipeline=2,schedule=eager_1f1b,eagerness=2``."""
    default_stages_per_worker: ClassVar[int] = 1
    min_stages_per_worker: ClassVar[int] = 1
    max_stages_per_worker: ClassVar[int] = 1
    placement: ClassVar[Literal["loop", "v"]] = "loop"
    """``loop``: stage s on worker s mod p; ``v``: stages r and 2p − 1 − r on worker r of p."""
    splits_backward: ClassVar[bool] = False
    """Whether the gradients of inputs and of weights are computed at different times."""
    runs_forward_only: ClassVar[bool] = True
    """Whether torch's schedule can skip backward passes, as inference requires."""
    gathers_stages: ClassVar[bool] = True
    """Whether torch's schedule gathers the sharded parameters of a stage before their first use and frees them after the last
    (UNSHARD and RESHARD), as schedules of several stages per worker do."""

    examples: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named options of the pipeline for two workers ("" is the plain one), which the conformance suite runs with this schedule
    and by default two microbatches per worker."""
    cut_dim: ClassVar[int] = 0
    """Dim of inputs, targets and activations that is cut into microbatches: 0 the batch, 1 the sequence."""
    has_actions: ClassVar[bool] = True
    """Whether torch has an order of actions for the schedule, which can be written as a file for `csv`."""

    def __init__(self, options: PipelineOptions) -> None:
        self.options = options
        self.num_workers, self.num_microbatches = options.size, options.num_microbatches
        self.stages_per_worker = options.stages_per_worker or self.default_stages_per_worker
        self.schedule_options: Any = options.schedule_options
        """Options of the schedule, an object of ``Options``; None if that has no fields."""

    @property
    def num_stages(self) -> int:
        """Number of stages on all workers."""
        return len(self.worker_of_stage())

    def worker_of_stage(self) -> list[int]:
        """Index along the pipeline axis of the worker of each stage."""
        forward_order = list(range(self.num_workers))
        back = forward_order if self.placement == "loop" else forward_order[::-1]
        return [worker for turn in range(self.stages_per_worker) for worker in (back if turn % 2 else forward_order)]

    def gathers(self, stage: int, trains: bool) -> tuple[int, int]:
        """Returns how often the sharded parameters of a stage are gathered in the forward and in the backward passes of a
        step."""
        return 1, 0

    def in_flight(self, worker: int) -> int | None:
        """Returns the maximum number of microbatches whose activations a worker holds at once; None without a formula."""
        return None

    def outputs_kept(self, worker: int) -> int:
        """Returns the number of microbatches whose outputs a worker holds besides the activations for backward; by default those
        of the last stage until their backward passes."""
        return (self.in_flight(worker) or 0) if worker == self.num_workers - 1 else 0

    def check_pieces(self, model: ModelSummary, spec: RunSpec) -> None:
        """Rejects a batch, or what else is cut, that does not divide into the microbatches.

        Raises:
            SplitError: the message includes the numbers.
        """
        batch, count = spec.samples_per_replica, self.num_microbatches
        if batch % count:
            of = "" if batch == spec.train.global_batch_size else " per replica"
            raise SplitError(
                "split.pipeline.num_microbatches",
                f"a batch of {batch}{of} is not divisible into {count} microbatches (remainder {batch % count});"
                f" use {divisors(batch)}",
            )

    def check(self, spec: RunSpec) -> None:
        """Rejects numbers of microbatches and stages with which torch would fail or hang.

        Raises:
            SplitError: the message includes the numbers.
        """
        low, high, given = self.min_stages_per_worker, self.max_stages_per_worker, self.stages_per_worker
        if not low <= given <= high:
            allowed = f"{low}" if low == high else f"{low} to {high}"
            raise SplitError(
                "split.pipeline.stages_per_worker",
                f"{self.name} supports {counted(allowed, 'stage')} per worker, but got {given}",
            )
        if spec.mode == "inference" and not self.runs_forward_only:
            raise SplitError(
                "split.pipeline.schedule",
                f"{self.name} does not support inference (torch's schedule deadlocks without backward passes)",
            )
        if spec.train.checkpointing == "selective" and self.splits_backward:
            raise SplitError(
                "train.checkpointing", f"selective is incompatible with {self.name}, which splits the backward pass; use full"
            )
        if spec.train.compile and self.splits_backward:
            raise SplitError(
                "train.compile", f"{self.name} splits the backward pass, which compiled stages do not support; set it to false"
            )

    def at_least_as_many_microbatches_as(self, number: int, what: str) -> None:
        """Rejects fewer microbatches than ``number``."""
        if self.num_microbatches < number:
            raise SplitError(
                "split.pipeline.num_microbatches",
                f"{self.name} requires at least as many microbatches as {what}: {self.num_microbatches} < {number}; or use gpipe",
            )

    def divides_into_rounds(self) -> None:
        """Rejects what torch's interleaved schedules cannot divide: ⌊m/p⌋ rounds of equal numbers of microbatches."""
        rounds = max(1, self.num_microbatches // self.num_workers)
        if over := self.num_microbatches % rounds:
            fitting = [m for m in range(1, 2 * self.num_microbatches) if m % max(1, m // self.num_workers) == 0]
            near = sorted(fitting, key=lambda m: abs(m - self.num_microbatches))[:2]
            raise SplitError(
                "split.pipeline.num_microbatches",
                f"{self.name} runs ⌊{self.num_microbatches}/{self.num_workers}⌋ = {rounds} rounds, by which"
                f" {self.num_microbatches} microbatches are not divisible (remainder {over});"
                f" use {listed([*map(str, sorted(near))], 'or')}",
            )

    @abstractmethod
    def build(self, stages: Sequence[PipelineStage], loss: Callable[..., Any] | None) -> Any:
        """Returns the torch schedule of this worker's stages; without a loss it runs forward only."""


class ActionSchedule(Schedule):
    """A schedule given by the order of actions of each worker. torch's runtime adds sends and receives."""

    @abstractmethod
    def actions(self, worker: int) -> Sequence[str]:
        """Returns the actions of one worker in order, each a stage, F, B, I or W, and a microbatch: ``0F0``.

        F is a forward pass and B a backward pass; I and W are the two halves of B, for inputs and for weights.
        """

    def build(self, stages: Sequence[PipelineStage], loss: Callable[..., Any] | None) -> Any:
        from workbench.torch_private.pipelining import schedule_of_actions

        actions = {worker: self.actions(worker) for worker in range(self.num_workers)}
        return schedule_of_actions(stages, self.num_microbatches, loss, actions)


schedule = register("schedule", Schedule, (Attribute("Options", "Options = MyOptions", subclass_of=Options),), options_problem)
