"""A spec with its plugins looked up and every formula ready."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

from workbench.errors import SplitError
from workbench.plan.communication import Transfer, totals
from workbench.plan.devices import num_gpus
from workbench.plan.memory import expected_memory
from workbench.plan.mesh import Mesh
from workbench.plan.model_summary import ModelSummary
from workbench.plan.rank_view import RankView
from workbench.plan.steps import trace_share
from workbench.spec.run_spec import RunSpec
from workbench.text import counted

if TYPE_CHECKING:
    from workbench.data.base import Dataset
    from workbench.models.base import Model
    from workbench.plan.lossy import Lossy
    from workbench.strategies.base import Strategy


@dataclass(frozen=True)
class Plan:
    """A spec with its plugins looked up and every formula ready."""

    spec: RunSpec
    dataset: Dataset[Any]
    model: Model[Any]
    strategies: tuple[Strategy[Any], ...]
    """In the order in which they are applied: stages, then context, then tensor, then experts, then data."""

    summary: ModelSummary
    mesh: Mesh

    @property
    def num_workers(self) -> int:
        """Processes of the run."""
        return self.mesh.num_workers

    @cached_property
    def device(self) -> str:
        """``cuda`` where the spec asks for it, else ``cpu``.

        Raises:
            SplitError: there are fewer GPUs than workers.
        """
        if self.spec.launch.device != "cuda":
            return "cpu"
        if (gpus := num_gpus()) < self.num_workers:
            found = f"{counted(gpus, 'GPU')} for {counted(self.num_workers, 'worker')}"
            raise SplitError(
                "launch.device", f"cuda requires one GPU per worker, but there are {found}; use cpu or fewer workers"
            )
        return "cuda"

    @property
    def device_notice(self) -> str | None:
        """Why the workers run on the CPU although this machine has GPUs; None where it has none or the spec chooses."""
        if self.spec.launch.device != "auto" or not (gpus := num_gpus()):
            return None
        found = f'{counted(gpus, "GPU")} found, but workers run on the CPU unless launch.device = "cuda";'
        return f"{found} the GPU path has not been tested on hardware"

    def part_of(self, rank: int) -> ModelSummary:
        """The part of the model that a worker holds."""
        part, coordinate = self.summary, self.mesh.coordinate(rank)
        for strategy in self.strategies:
            part = strategy.place(part, coordinate[strategy.axis])
        return part

    def share_of(self, rank: int) -> RankView:
        """A worker's share of a step."""
        num_samples = self.spec.train.global_batch_size // self.mesh.num_replicas
        all_stages, coordinate = self.summary, self.mesh.coordinate(rank)
        for strategy in self.strategies:
            if strategy.axis != "pipeline":
                all_stages = strategy.place(all_stages, coordinate[strategy.axis])
        num_microbatches = prod(s.num_microbatches for s in self.strategies)
        return RankView(self.spec, self.mesh, rank, num_samples, num_microbatches, self.summary, self.part_of(rank), all_stages)

    def transfers_of(self, rank: int) -> Iterator[Transfer]:
        """What the strategies' formulas say a worker takes part in, in one step."""
        part, share = self.summary, self.share_of(rank)
        for strategy in self.strategies:
            yield from strategy.expected(part, share)
            part = strategy.place(part, share.index(strategy.axis))
        if share.trains and self.spec.train.max_gradient_norm is not None and self.num_workers > 1:
            # The sum of the gradients' squares, one number of at least single precision.
            yield Transfer("all_reduce", self.mesh.world_axis, "optimizer", 1, max(4, share.element_bytes), self.num_workers)

    def updated_by(self, rank: int) -> ModelSummary:
        """The part of the model that a worker's optimizer updates, and so keeps state of."""
        part, coordinate = self.part_of(rank), self.mesh.coordinate(rank)
        for strategy in self.strategies:
            part = strategy.updates(part, coordinate[strategy.axis])
        return part.only_trained()

    @property
    def lossy(self) -> Lossy | None:
        """What a strategy of a training run changes on purpose."""
        if self.spec.mode != "train":
            return None
        return next((s.lossy for s in self.strategies if s.lossy), None)

    @property
    def transfers(self) -> list[Transfer]:
        """What the strategies' formulas say moves in one step over the whole run."""
        return totals(t for rank in range(self.num_workers) for t in self.transfers_of(rank))

    @property
    def flops_per_step(self) -> int | None:
        """Floating-point operations that the model needs for a step, matrix products only: in training three times its
        forward pass, for backward takes twice as many (Kaplan et al. 2020, section 2.1), but for what frozen parameters
        spare; what a split or checkpointing computes again is not among them. None: of a generation, whose passes no formula
        here adds up."""
        if self.spec.generates:
            return None
        forward = sum(block.forward_flops for block in self.summary.blocks)
        backward = self.summary.backward_flops if self.spec.mode == "train" else 0
        return (forward + backward) * self.spec.train.global_batch_size

    def expected_record(self) -> dict[str, Any]:
        """The formulas' results as plain values: parameters that each worker holds and updates, transfers and
        floating-point operations of a step."""
        return {
            "parameters_per_worker": [self.part_of(rank).num_parameters for rank in range(self.num_workers)],
            "updated_parameters_per_worker": [self.updated_by(rank).num_parameters for rank in range(self.num_workers)],
            "transfers": [{**asdict(t), "trace_share": float(trace_share(self.spec, t.every))} for t in self.transfers],
            "flops_per_step": self.flops_per_step,
            "memory_per_worker": [asdict(expected_memory(self, rank)) for rank in range(self.num_workers)],
        }
