"""What layer-wise and pipeline parallelism share: the model is cut into stages, one a worker, that hand on activations."""

from __future__ import annotations

from abc import abstractmethod
from itertools import accumulate
from math import prod
from typing import TYPE_CHECKING, Literal, TypeVar

from workbench.errors import SplitError
from workbench.plan.partition import balanced
from workbench.plan.summary import block_of
from workbench.plan.transfer import Transfer
from workbench.spec.options import StrategyOptions
from workbench.strategies.base import Strategy

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import DeviceMesh

    from workbench.plan.summary import ModelSummary, Tie
    from workbench.spec.run_spec import RunSpec
    from workbench.strategies.worker_model import Compute, StepResult, WorkerModel


class StagedOptions(StrategyOptions):
    balance: Literal["flops", "parameters", "blocks"] = "flops"
    """What is made even between workers: floating-point operations, parameters, or the number of blocks."""


O = TypeVar("O", bound=StagedOptions)


class StagedStrategy(Strategy[O]):
    """Consecutive blocks on each worker of the ``pipeline`` axis."""

    axis = "pipeline"
    apply_order = 0

    @property
    @abstractmethod
    def num_microbatches(self) -> int:
        """Pieces that the batch passes through the stages in."""

    def check(self, model: ModelSummary, spec: RunSpec) -> None:
        if self.options.size > len(model.blocks):
            raise SplitError(
                f"split.{self.name}.size",
                f"{model.name} has {len(model.blocks)} blocks, too few for {self.options.size} workers;"
                f" use at most {len(model.blocks)}, or more layers",
            )

    def stages(self, model: ModelSummary) -> list[tuple[str, ...]]:
        """Names of each stage's blocks."""
        weights = {
            "flops": lambda b: b.forward_flops,
            "parameters": lambda b: b.num_parameters,
            "blocks": lambda b: 1,
        }
        sizes = balanced([weights[self.options.balance](b) for b in model.blocks], self.options.size)
        names = [b.name for b in model.blocks]
        return [tuple(names[end - size : end]) for size, end in zip(sizes, accumulate(sizes), strict=True)]

    def place(self, model: ModelSummary, index: int) -> ModelSummary:
        return model.with_blocks(self.stages(model)[index])

    def expected(self, model: ModelSummary, spec: RunSpec) -> list[Transfer]:
        """Per cut and microbatch one send of the boundary activation and one of its gradient back; a parameter tied
        across stages adds one all-reduce of its gradient (Shoeybi et al. 2019)."""
        element, count = spec.train.element_bytes, self.num_microbatches
        shapes = {block.name: block.output_shape for block in model.blocks}
        transfers = []
        for stage in self.stages(model)[:-1]:
            activation = spec.train.global_batch_size // count * prod(shapes[stage[-1]]) * element
            transfers += [
                Transfer("send", self.axis, "forward", count, activation),
                Transfer("send", self.axis, "backward", count, activation),
            ]
        numel = {p.name: p.numel for p in model.parameters}
        for tie, _, _ in self._ties_across_stages(model):
            transfers.append(Transfer("all_reduce", self.axis, "backward", 1, numel[tie.source] * element))
        return transfers

    def apply(self, worker: WorkerModel, mesh: DeviceMesh) -> None:
        self.connect(worker, mesh)
        self._sum_gradients_of_ties(worker, mesh)

    @abstractmethod
    def connect(self, worker: WorkerModel, mesh: DeviceMesh) -> None:
        """Sets ``worker.compute``: how stages hand on activations and gradients."""

    def _ties_across_stages(self, model: ModelSummary) -> list[tuple[Tie, int, int]]:
        """Ties whose two names live on different stages, with these stages."""
        stage = {block: index for index, blocks in enumerate(self.stages(model)) for block in blocks}
        ties = [(t, stage[block_of(t.source)], stage[block_of(t.parameter)]) for t in model.ties]
        return [(tie, first, last) for tie, first, last in ties if first != last]

    def _sum_gradients_of_ties(self, worker: WorkerModel, mesh: DeviceMesh) -> None:
        """Both copies of a tied parameter get the sum of the gradients of its two uses, and so stay equal."""
        import torch.distributed as dist

        ranks, here = mesh.mesh.tolist(), mesh.get_local_rank()
        parameters = dict(worker.named_parameters())
        for tie, *stages in self._ties_across_stages(worker.summary):
            if here in stages:
                group = dist.new_group([ranks[stage] for stage in stages], use_local_synchronization=True)
                worker.compute = self._then_sum(worker, parameters[tie.source], group)

    def _then_sum(self, worker: WorkerModel, parameter: torch.nn.Parameter, group: dist.ProcessGroup) -> Compute:
        import torch.distributed as dist

        compute = worker.compute

        def step(inputs: torch.Tensor, targets: torch.Tensor) -> StepResult:
            result = compute(inputs, targets)
            with worker.span("backward", name="tied gradient"):
                dist.all_reduce(parameter.grad, group=group)
            return result

        return step
