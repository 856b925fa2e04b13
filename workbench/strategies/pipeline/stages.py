"""Base of layer-wise and pipeline parallelism: the model is cut into stages that pass activations on."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, combinations
from math import prod
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import PositiveInt

from workbench.errors import SplitError
from workbench.messages import counted, listed
from workbench.plan.communication import ExpectedCommunication
from workbench.plan.model_summary import block_of
from workbench.plan.partition import balanced
from workbench.plan.placement import Placement
from workbench.spec.options import StrategyOptions
from workbench.strategies.base import ApplyOrder, Limiting, Strategy

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import DeviceMesh

    from workbench.plan.model_summary import ModelSummary
    from workbench.plan.rank_view import RankView
    from workbench.spec.run_spec import RunSpec
    from workbench.strategies.worker_model import Compute, StepResult, WorkerModel


class StagedOptions(StrategyOptions):
    partition: Literal["flops", "parameters", "blocks", "time"] | tuple[PositiveInt, ...] = "flops"
    """Quantity that is balanced between stages: FLOPs, parameters, number of blocks, or the time of each block, measured on this
    machine before the run; or the number of blocks of each stage, such as [2, 3, 1]."""


O = TypeVar("O", bound=StagedOptions)
TOKEN_BYTES = 8  # int64


class StagedStrategy(Strategy[O]):
    """Consecutive blocks on each worker of the ``pipeline`` axis."""

    axis = "pipeline"
    apply_order = ApplyOrder.STAGES

    @property
    def worker_of_stage(self) -> list[int]:
        """Index along the axis of the worker that holds each stage; by default one stage per worker."""
        return list(range(self.options.size))

    @property
    def action_rows(self) -> list[str]:
        """Actions of each worker, as ``action_order`` reads them; by default one forward and one backward pass."""
        return [f"{stage}F0,{stage}B0" for stage in self.worker_of_stage]

    @property
    def gathers_stages(self) -> bool:
        """Whether the schedule itself gathers the sharded parameters of each stage, once per step."""
        return False

    def gathers(self, stage: int, trains: bool) -> tuple[int, int]:
        """Returns how often the sharded parameters of a stage are gathered in the forward and in the backward passes of a step,
        if they are freed after each forward pass."""
        return 1, int(trains)

    @property
    def why_no_generation(self) -> str:
        num_stages, size = len(self.worker_of_stage), self.options.size
        if num_stages == size:
            return ""
        return f"generation requires one stage per worker, but there are {num_stages} stages on {size} workers"

    def advice(self, limit: Limiting, axis: str, spec: RunSpec) -> str:
        if (limit, axis) == ("communication", self.axis):
            return "Try a partition with smaller activations at its cuts, or fewer, larger microbatches."
        if (limit, axis) == ("imbalance", self.axis):
            return f"Try split.{self.name}.partition = time or assign a block to another stage."
        return ""

    @property
    def cut_dim(self) -> int:
        """Dim of inputs and activations that is cut into microbatches: 0 is the batch, 1 the sequence."""
        return 0

    def check(self, model: ModelSummary, spec: RunSpec) -> None:
        num_stages, num_blocks, partition = len(self.worker_of_stage), len(model.blocks), self.options.partition
        self.check_num_stages(model, num_stages)
        if isinstance(partition, tuple) and (len(partition) != num_stages or sum(partition) != num_blocks):
            raise SplitError(
                f"split.{self.name}.partition",
                f"{list(partition)} describes {counted(len(partition), 'stage')} with {sum(partition)} blocks in total,"
                f" but the split has {counted(num_stages, 'stage')} and the model {num_blocks} blocks",
            )
        if spec.train.compile and any(block.crossing for block in model.blocks):
            raise SplitError(
                "train.compile",
                f"stages leave the code of {model.name} after their last block, which torch.compile does not support; use false",
            )
        ends = [model.blocks[end - 1] for end in accumulate(partition)][:-1] if isinstance(partition, tuple) else []
        if uncut := next((block for block in ends if not block.is_cut_point), None):
            raise SplitError(
                f"split.{self.name}.partition",
                f"{list(partition)} cuts {model.name} after {uncut.name}, where it cannot be cut; it can be cut after"
                f" {listed([block.name for block in model.blocks[:-1] if block.is_cut_point], 'or')}",
            )

        if spec.generates:
            self._check_generation(model)

    def _check_generation(self, model: ModelSummary) -> None:
        """Rejects stages that cannot generate.

        Raises:
            SplitError: with the reason, or the tensor that has no positions.
        """
        generation, field = model.generation, f"split.{self.name}"
        refused = dict(generation.not_staged)
        if reason := next((refused[blocks[-1]] for blocks in self.stages(model)[:-1] if blocks[-1] in refused), ""):
            others = [block.name for block in model.blocks[:-1] if block.is_cut_point and block.name not in refused]
            elsewhere = f"cut it after {listed(others, 'or')} with {field}.partition, or use" if others else "use"
            raise SplitError(field, f"{model.name} cannot generate in these stages: {reason}; {elsewhere} data or tensor")
        for blocks in self.stages(model)[:-1] if generation.sequence_length else ():
            (block,) = (each for each in model.blocks if each.name == blocks[-1])
            if whole := next((shape for shape in block.crossing_shapes if shape[:1] != (generation.sequence_length,)), None):
                raise SplitError(
                    field,
                    f"generation passes positions on to the next stage, but a tensor of shape {whole} per sample crosses the cut"
                    f" after {block.name} of {model.name}; cut elsewhere, or use data or tensor",
                )

    def check_num_stages(self, model: ModelSummary, num_stages: int) -> None:
        """Rejects more stages than the model can be cut into.

        Raises:
            SplitError: the message includes the numbers.
        """
        num_blocks, workers = len(model.blocks), f"{self.options.size} workers"
        num_parts = 1 + sum(block.is_cut_point for block in model.blocks[:-1])
        if num_stages > num_parts:
            demand = workers if num_stages == self.options.size else f"{num_stages} stages on {workers}"
            found = f"{model.name} has {counted(num_blocks, 'block')}"
            if num_parts < num_blocks:
                found += f" and can be cut into {counted(num_parts, 'part')}"
            remedy = f"use at most {counted(num_parts, 'stage')}, or more layers"
            if model.why_whole:
                remedy = f"it cannot be cut: {model.why_whole}; use data"
            raise SplitError(f"split.{self.name}.size", f"{found}, too few for {demand}; {remedy}")

    def stages(self, model: ModelSummary) -> list[tuple[str, ...]]:
        """Returns the names of the blocks of each stage."""
        partition, names = self.options.partition, [b.name for b in model.blocks]
        if isinstance(partition, tuple):
            sizes = list(partition)
        else:
            weights = {"parameters": lambda b: b.num_parameters, "blocks": lambda b: 1}
            # "time" is replaced by a measured partition when the run is submitted; until then it is by FLOPs.
            weight_of = weights.get(partition, lambda b: b.forward_flops)
            can_end = [b.is_cut_point for b in model.blocks]
            sizes = balanced([weight_of(b) for b in model.blocks], len(self.worker_of_stage), can_end)
        return [tuple(names[end - size : end]) for size, end in zip(sizes, accumulate(sizes), strict=True)]

    def with_partition_by(self, times: Mapping[str, float], can_end: Sequence[bool] = ()) -> O:
        """Returns the options with the partition that balances the measured times.

        Args:
            times: seconds of each block, in the order of the blocks.
            can_end: whether the model can be cut after each block; by default after all.
        """
        sizes = balanced(list(times.values()), len(self.worker_of_stage), can_end)
        return self.options.model_copy(update={"partition": tuple(sizes)})

    def place(self, model: ModelSummary, index: int) -> Placement:
        local_stages = [
            blocks for blocks, worker in zip(self.stages(model), self.worker_of_stage, strict=True) if worker == index
        ]
        return Placement(model.with_blocks(name for blocks in local_stages for name in blocks))

    def expected(self, model: ModelSummary, rank_view: RankView) -> list[ExpectedCommunication]:
        """Returns one send of each tensor that crosses a cut per microbatch, and one of its gradient if a parameter before the
        cut is trained; none between stages on one worker. A parameter tied across workers adds one all-reduce of its gradient
        over its holders (Shoeybi et al. 2019)."""
        if rank_view.spec.generates:
            return self._expected_generation(model, rank_view)
        index, count, worker_by_stage = rank_view.index(self.axis), self.num_microbatches, self.worker_of_stage
        expected = []
        for stage, blocks in enumerate(self.stages(model)[:-1]):
            sender, receiver = worker_by_stage[stage], worker_by_stage[stage + 1]
            for shape in rank_view.crossing_shapes(blocks[-1]):
                activation = rank_view.num_samples * prod(shape) // count * rank_view.compute_bytes
                if sender != receiver and index == sender:
                    expected.append(ExpectedCommunication("send", self.axis, "forward", count, activation))
                if sender != receiver and index == receiver and rank_view.trains and self.receives_gradients(model, stage):
                    expected.append(ExpectedCommunication("send", self.axis, "backward", count, activation))
        numel = {p.name: p.numel for p in rank_view.local_model.parameters}
        for source, workers in self._ties_across_workers(model):
            if index in workers and rank_view.trains:
                payload = next(numel[name] for name in model.tied_names[source] if name in numel) * rank_view.element_bytes
                expected.append(ExpectedCommunication("all_reduce", self.axis, "backward", 1, payload, len(workers)))
        return expected

    def _expected_generation(self, model: ModelSummary, rank_view: RankView) -> list[ExpectedCommunication]:
        """Returns the sends per microbatch: the activations of every pass to the next stage, and every token (int64) from the
        last stage to the first."""
        index, count, generation = rank_view.index(self.axis), self.num_microbatches, rank_view.spec.inference
        samples = rank_view.num_samples // count
        if index == self.options.size - 1:
            return [ExpectedCommunication("send", self.axis, "forward", count * generation.num_new_tokens, samples * TOKEN_BYTES)]
        shapes, passes = rank_view.crossing_shapes(self.stages(model)[index][-1]), model.generation.passes(generation)
        units = [samples * prod(shape[1:]) * rank_view.compute_bytes for shape in shapes]
        return [
            ExpectedCommunication("send", self.axis, "forward", count * n, unit * positions)
            for positions, n in passes
            for unit in units
        ]

    def apply(self, worker: WorkerModel, mesh: DeviceMesh) -> None:
        if worker.rank_view.spec.generates:
            self._connect_generation(worker, mesh[self.axis])
        else:
            self.connect(worker, mesh[self.axis])
        worker.compute = self._with_schedule_span(worker)
        if worker.trains:
            self._sum_gradients_of_ties(worker, mesh)

    def _with_schedule_span(self, worker: WorkerModel) -> Compute:
        """Returns the worker's step in a ``schedule`` span, to which time outside computation and communication is attributed."""
        compute = worker.compute

        def step(inputs: torch.Tensor, targets: torch.Tensor) -> StepResult:
            with worker.span("schedule"):
                return compute(inputs, targets)

        return step

    def _connect_generation(self, worker: WorkerModel, mesh: DeviceMesh) -> None:
        import torch.distributed as dist

        from workbench.strategies.pipeline.generation import Links, generation

        index, last, ranks, ends = mesh.get_local_rank(), mesh.size() - 1, mesh.mesh.tolist(), None
        if index in (0, last):
            ends = dist.new_group([ranks[0], ranks[last]], use_local_synchronization=True)
            worker.axes[ends.group_name] = self.axis
        shapes = worker.crossing_shapes(self.stages(worker.full_model)[index - 1][-1]) if index else ()
        worker.num_microbatches = self.num_microbatches
        links = Links(worker, index, mesh.size(), mesh.get_group(), ends, tuple(shape[1:] for shape in shapes))
        worker.compute = generation(worker, links)

    @abstractmethod
    def connect(self, worker: WorkerModel, mesh: DeviceMesh) -> None:
        """Sets ``worker.stages`` and ``worker.compute``, which pass activations and gradients between stages."""

    def receives_gradients(self, model: ModelSummary, stage: int) -> bool:
        """Whether a stage receives the gradients of its outputs: a parameter in it or in an earlier stage is trained."""
        names = {name for blocks in self.stages(model)[: stage + 1] for name in blocks}
        return any(p.has_gradient for block in model.blocks if block.name in names for p in block.parameters)

    def ties_within_workers(self, model: ModelSummary) -> Iterator[tuple[str, str]]:
        """Yields pairs of names of one trained parameter in different stages of one worker."""
        stage_by_block = {block: stage for stage, blocks in enumerate(self.stages(model)) for block in blocks}
        trained = {p.name for p in model.trained_parameters}
        for source, names in model.tied_names.items():
            for first, second in combinations(names if source in trained else (), 2):
                stages = stage_by_block[block_of(first)], stage_by_block[block_of(second)]
                if stages[0] != stages[1] and self.worker_of_stage[stages[0]] == self.worker_of_stage[stages[1]]:
                    yield first, second

    def _ties_across_workers(self, model: ModelSummary) -> list[tuple[str, list[int]]]:
        """Returns the source of each trained parameter that several workers hold, with these workers."""
        worker = {b: w for blocks, w in zip(self.stages(model), self.worker_of_stage, strict=True) for b in blocks}
        trained = {p.name for p in model.trained_parameters}
        holders = {source: sorted({worker[block_of(n)] for n in names}) for source, names in model.tied_names.items()}
        return [(source, workers) for source, workers in holders.items() if source in trained and len(workers) > 1]

    def _sum_gradients_of_ties(self, worker: WorkerModel, mesh: DeviceMesh) -> None:
        """Sums the gradients of all uses of a tied parameter, so that its copies stay equal.

        Every worker of the run creates every group, in the same order: with ``use_local_synchronization`` torch names a group by
        the number of groups of a worker, which differs between the workers (torch 2.13).
        """
        import torch.distributed as dist

        assert mesh.mesh_dim_names is not None
        axis, index, rank = mesh.mesh_dim_names.index(self.axis), mesh.get_local_rank(self.axis), mesh.get_rank()
        pipelines = mesh.mesh.movedim(axis, -1).reshape(-1, mesh.size(axis)).tolist()
        ties = self._ties_across_workers(worker.full_model)
        groups: dict[tuple[int, ...], dist.ProcessGroup] = {}
        for workers in dict.fromkeys(tuple(workers) for _, workers in ties):
            for ranks in pipelines:
                group = dist.new_group([ranks[w] for w in workers])
                if index in workers and rank in ranks:
                    groups[workers] = group
                    worker.axes[group.group_name] = self.axis
        for source, holders in ties:
            if index in holders:
                worker.num_copies[source] = len(holders)
                worker.compute = self.with_gradient_sum(worker, source, groups[tuple(holders)])

    def with_gradient_sum(self, worker: WorkerModel, name: str, group: dist.ProcessGroup) -> Compute:
        """Returns the step of a worker with the sum of the gradients of one tied parameter."""
        import torch
        import torch.distributed as dist
        from torch.distributed.tensor import DTensor

        compute = worker.compute

        def step(inputs: torch.Tensor, targets: torch.Tensor) -> StepResult:
            result = compute(inputs, targets)
            parameter = dict(worker.named_parameters())[name]
            if parameter.grad is None:  # no local use reaches the loss, but one on another worker does
                parameter.grad = torch.zeros_like(parameter)
            gradient = parameter.grad
            with worker.span("backward", name="tied gradient"):
                dist.all_reduce(gradient.to_local() if isinstance(gradient, DTensor) else gradient, group=group)
            return result

        return step


def staged_strategy(spec: RunSpec) -> StagedStrategy[Any] | None:
    """Returns the strategy of this run that cuts the model into stages, if any."""
    return next((s for s in spec.split.strategies if isinstance(s, StagedStrategy)), None)
