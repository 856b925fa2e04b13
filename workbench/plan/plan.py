"""The plan of a run: a spec with its plugins, mesh and formulas."""

from __future__ import annotations

import functools
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import SplitError
from workbench.messages import counted
from workbench.plan.communication import ExpectedCommunication, totals
from workbench.plan.memory import expected_memory
from workbench.plan.mesh import Mesh
from workbench.plan.model_summary import ModelSummary
from workbench.plan.placement import Placement
from workbench.plan.rank_view import RankView
from workbench.plan.steps import trace_share
from workbench.registry import USER_OPTIMIZER, is_source, loaded
from workbench.spec.run_spec import RunSpec

if TYPE_CHECKING:
    from workbench.data.base import Dataset
    from workbench.models.base import Model
    from workbench.optimizers.user import UserOptimizer
    from workbench.plan.lossy import Lossy
    from workbench.strategies.base import Strategy

_DRIVER_FILES = ("/dev/nvidiactl", "/dev/kfd")


@dataclass(frozen=True)
class Plan:
    """The plan of a run: a spec with its plugins, mesh and formulas."""

    spec: RunSpec
    dataset: Dataset[Any]
    model: Model[Any]
    strategies: tuple[Strategy[Any], ...]
    """In the order in which they are applied: stages, then context, then tensor, then experts, then data."""

    full_model: ModelSummary
    """The unsplit model."""

    mesh: Mesh

    @functools.cached_property
    def user_optimizer(self) -> UserOptimizer | None:
        """The user's own optimizer; None if the spec names one of torch's."""
        is_own = self.spec.mode == "train" and is_source(self.spec.train.optimizer)
        return loaded(USER_OPTIMIZER)(self.spec.train, self.full_model.trained_parameters) if is_own else None

    @property
    def num_workers(self) -> int:
        """Number of processes of the run."""
        return self.mesh.num_workers

    @functools.cached_property
    def device(self) -> str:
        """``cuda`` if the spec requests it, else ``cpu``.

        Raises:
            SplitError: there are fewer GPUs than workers.
        """
        if self.spec.launch.device != "cuda":
            return "cpu"
        if (gpus := num_gpus()) < self.num_workers:
            available = f"{counted(gpus, 'GPU')} for {counted(self.num_workers, 'worker')}"
            raise SplitError(
                "launch.device", f"cuda requires one GPU per worker, but there are {available}; use cpu or fewer workers"
            )
        return "cuda"

    @property
    def device_notice(self) -> str | None:
        """Why the workers run on the CPU although this machine has GPUs; None if it has none or the spec sets the device."""
        if self.spec.launch.device != "auto" or not (gpus := num_gpus()):
            return None
        notice = f'{counted(gpus, "GPU")} found, but workers run on the CPU unless launch.device = "cuda";'
        return f"{notice} the GPU path has not been tested on hardware"

    def placement(self, rank: int, without_axis: str | None = None) -> Placement:
        """Returns what a worker holds, after all strategies or without those along one axis."""
        coordinate, placement = self.mesh.coordinate(rank), Placement(self.full_model)
        for strategy in self.strategies:
            if strategy.axis != without_axis:
                placement = placement.then(strategy.place, coordinate[strategy.axis])
        return replace(placement, updated=placement.updated.only_trained())

    def local_model(self, rank: int) -> ModelSummary:
        """Returns the part of the model that a worker holds."""
        return self.placement(rank).local_model

    def rank_view(self, rank: int) -> RankView:
        """Returns the plan of one worker."""
        if rank not in self._rank_views:
            self._rank_views[rank] = self._compute_rank_view(rank)
        return self._rank_views[rank]

    @functools.cached_property
    def _rank_views(self) -> dict[int, RankView]:
        """The results of ``rank_view`` so far: memory and communication need the same ones."""
        return {}

    def _compute_rank_view(self, rank: int) -> RankView:
        num_samples = self.spec.train.global_batch_size // self.mesh.num_replicas
        num_microbatches = prod(s.num_microbatches for s in self.strategies)
        all_stages = self.placement(rank, without_axis="pipeline").local_model
        return RankView(
            self.spec, self.mesh, rank, num_samples, num_microbatches, self.full_model, self.placement(rank), all_stages
        )

    def expected_communication_of(self, rank: int) -> Iterator[ExpectedCommunication]:
        """Returns the communication of a worker in one step, by the formulas of the strategies."""
        remaining, rank_view = self.full_model, self.rank_view(rank)
        for strategy in self.strategies:
            yield from strategy.expected(remaining, rank_view)
            remaining = strategy.place(remaining, rank_view.index(strategy.axis)).local_model
        if rank_view.trains and self.spec.train.max_gradient_norm is not None and self.num_workers > 1:
            # The sum of the gradients' squares, one number of at least single precision.
            yield ExpectedCommunication(
                "all_reduce", self.mesh.world_axis, "optimizer", 1, max(4, rank_view.element_bytes), self.num_workers
            )

    @property
    def lossy(self) -> Lossy | None:
        """The declared change to the computation by a strategy of a training run, if any."""
        if self.spec.mode != "train":
            return None
        return next((s.lossy for s in self.strategies if s.lossy), None)

    @property
    def notes(self) -> list[str]:
        """What the strategies choose for this model though no option says so, a clause each."""
        return [note for s in self.strategies if (note := s.note(self.full_model, self.spec))]

    @property
    def expected_communication(self) -> list[ExpectedCommunication]:
        """The communication of one step, summed over all workers, by the formulas of the strategies."""
        return totals(t for rank in range(self.num_workers) for t in self.expected_communication_of(rank))

    @property
    def flops_per_step(self) -> int | None:
        """Floating-point operations of the matrix products of a step. In training three times those of the forward pass, since
        backward takes twice as many (Kaplan et al. 2020, section 2.1), minus those of gradients that frozen parameters do not
        need. Without recomputation by a split or by checkpointing. None for generation, which has no formula."""
        if self.spec.generates:
            return None
        forward = sum(block.forward_flops for block in self.full_model.blocks)
        backward = self.full_model.backward_flops if self.spec.mode == "train" else 0
        return (forward + backward) * self.spec.train.global_batch_size

    def expected_record(self) -> dict[str, Any]:
        """Returns the results of the formulas as plain values: parameters held and updated by each worker, memory, communication
        and floating-point operations of a step, and why a generation has no cache."""
        placements = [self.placement(rank) for rank in range(self.num_workers)]
        return {
            "parameters_per_worker": [p.local_model.num_parameters for p in placements],
            "updated_parameters_per_worker": [p.updated.num_parameters for p in placements],
            "communication": [
                {**asdict(t), "trace_share": float(trace_share(self.spec, t.every))} for t in self.expected_communication
            ],
            "flops_per_step": self.flops_per_step,
            "no_cache": self.full_model.generation.no_cache if self.spec.generates else "",
            "memory_per_worker": [asdict(expected_memory(self, rank)) for rank in range(self.num_workers)],
        }


def num_gpus() -> int:
    """Returns the number of GPUs that torch can use."""
    return len(gpu_memory_bytes())


@functools.cache
def gpu_memory_bytes() -> tuple[int, ...]:
    """Returns the memory of each GPU that torch can use; empty, with a warning, if the driver fails. Asks torch in a process
    of its own, and only if a driver is loaded."""
    if not any(Path(path).exists() for path in _DRIVER_FILES):
        return ()
    code = "from torch import cuda; print(*(cuda.get_device_properties(n).total_memory for n in range(cuda.device_count())))"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if asked.returncode:
        reason = asked.stderr.strip().splitlines() or [f"exit code {asked.returncode}"]
        warnings.warn(f"the GPUs of this machine cannot be used: {reason[-1]}", stacklevel=2)
        return ()
    return tuple(map(int, asked.stdout.split()))
