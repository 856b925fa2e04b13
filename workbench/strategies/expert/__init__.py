"""Expert parallelism: each worker holds a part of the experts of every mixture; tokens are sent to their experts and back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from workbench.errors import SplitError
from workbench.messages import listed
from workbench.plan.communication import ExpectedCommunication
from workbench.plan.model_summary import ParameterSummary
from workbench.plan.placement import Placement
from workbench.spec.options import Size, StrategyOptions
from workbench.strategies.base import ApplyOrder, Caption, Limiting, Strategy, strategy
from workbench.strategies.data.ddp import (
    AVERAGING,
    USED_BYTES,
    average_gradients,
    averaging_advice,
    check_all_trained,
    check_replicas,
    expected_average,
    expected_search,
)
from workbench.strategies.expert.user_mixtures import check_user_module, expected_of_mixtures, place_mixtures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

    from workbench.plan.expert_split import ExpertMixture
    from workbench.plan.model_summary import Mixture, ModelSummary
    from workbench.plan.rank_view import RankView
    from workbench.spec.run_spec import RunSpec
    from workbench.strategies.worker_model import WorkerModel

COUNT_BYTES = 8  # how many tokens go to an expert, an int64


class ExpertOptions(StrategyOptions):
    size: Size = 2
    """Number of consecutive workers of the data axis that the experts are divided over; without data, the size of that axis."""


@strategy("expert")
class ExpertStrategy(Strategy[ExpertOptions]):
    """Expert parallelism: divides the experts over workers of the data axis and sends each token to its experts (GShard, Lepikhin
    et al. 2020; Switch, Fedus et al. 2021). All other parameters are replicated."""

    Options = ExpertOptions
    axis = "data"
    divides_axis = True
    apply_order = ApplyOrder.EXPERTS  # finishes after data, whose accumulated gradients it averages once they are complete
    captions = {
        ("expert", "all_to_all", "forward"): Caption(
            "Each token is dispatched to the worker that has its expert, and the result is returned."
        ),
        ("expert", "all_to_all", "backward"): Caption("Gradients take the same routes in reverse."),
        ("expert", "all_gather", "forward"): Caption("Each worker gets the tokens of all, of which its experts take theirs."),
        ("expert", "reduce_scatter", "forward"): Caption("The results of the experts are added up, for each worker's tokens."),
        ("expert", "all_gather", "backward"): Caption("Each worker gets the gradients of all results of its experts."),
        ("expert", "reduce_scatter", "backward"): Caption("The gradients of the tokens are added up, for each worker's."),
        ("data", "all_reduce", "backward"): AVERAGING,
    }
    lessons = ("lesson.md",)
    lesson_order = 5

    @property
    def label(self) -> str:
        return f"ep{self.options.size}"

    def advice(self, limit: Limiting, axis: str, spec: RunSpec) -> str:
        if limit != "communication":
            return ""
        advice = {self.name: "Try fewer workers along expert or a smaller top_k.", self.axis: averaging_advice()}
        return advice.get(axis, "")

    def check(self, model: ModelSummary, spec: RunSpec) -> None:
        check_replicas(model, spec, "split.expert")
        size, batch = self.options.size, spec.train.global_batch_size
        mixtures: Sequence[Mixture | ExpertMixture] = model.mixtures
        if model.experts is not None:
            check_user_module(model.name, model.experts, spec)
            mixtures = model.experts.mixtures
        if not mixtures:
            raise SplitError("split.expert", f"{model.name} has no experts; use the model moe")
        check_all_trained(model, spec, "split.expert")
        for mixture in mixtures:
            if mixture.num_experts % size:
                allowed = [n for n in range(2, mixture.num_experts + 1) if mixture.num_experts % n == 0]
                raise SplitError(
                    "split.expert.size",
                    f"{mixture.num_experts} experts are not divisible by {size} workers (remainder {mixture.num_experts % size});"
                    f" {'use ' + listed([*map(str, allowed)], 'or') if allowed else 'use a model with more experts'}",
                )
        data: Any = dict(spec.split.items()).get("data")
        if data is None and batch % size:
            raise SplitError(
                "split.expert.size",
                f"the global batch size {batch} is not divisible by {size} workers (remainder {batch % size});"
                f" set train.global_batch_size to a multiple of {size}",
            )
        if data is not None and data.size % size:
            raise SplitError(
                "split.expert.size",
                f"the data axis of {data.size} workers is not divisible into groups of {size} (remainder {data.size % size});"
                f" use a divisor of {data.size}",
            )
        if data is not None and data.shard != "none":
            raise SplitError(
                "split.data.shard",
                f'"{data.shard}" is incompatible with expert: workers of the data axis hold different experts; use none',
            )

    def place(self, model: ModelSummary, index: int) -> Placement:
        if model.experts is not None:
            return place_mixtures(model, model.experts.mixtures, self.options.size, index % self.options.size)
        names = tuple(f"{mixture.path}.experts." for mixture in model.mixtures)

        def cut(parameter: ParameterSummary) -> ParameterSummary:
            if not parameter.name.startswith(names):
                return parameter
            num_experts, *shape = parameter.shape
            return replace(parameter, shape=(num_experts // self.options.size, *shape), is_replicated=False)

        blocks = (replace(b, parameters=tuple(map(cut, b.parameters))) for b in model.blocks)
        return Placement(replace(model, blocks=tuple(blocks)))

    def expected(self, model: ModelSummary, rank_view: RankView) -> list[ExpectedCommunication]:
        """Returns the all-to-alls of each mixture and microbatch: the number of tokens per expert, the tokens to their experts
        and back; backward their gradients to the experts and back.

        A worker sends its tokens × top_k. What it receives depends on the routing, but the sum over the group is exact. With a
        capacity, dropped tokens are not sent: the formula is then an upper bound, reached if every expert is full.

        The gradients of each expert are all-reduced once across groups; all other gradients are averaged as in data parallelism.
        Full activation checkpointing repeats the forward communication; selective keeps the received tokens.
        """
        size, count, expected = self.options.size, rank_view.num_microbatches, list[ExpectedCommunication]()
        if model.experts is not None:
            expected += expected_of_mixtures(model.experts.mixtures, self.name, size, rank_view)
        for mixture in rank_view.local_model.mixtures:
            num_sent, is_bound = mixture.num_sent(rank_view.num_samples // count)
            tokens = num_sent * mixture.hidden_dim * rank_view.compute_bytes
            forward = [
                ExpectedCommunication("all_to_all", self.name, "forward", count, mixture.num_experts * COUNT_BYTES, size),
                ExpectedCommunication("all_to_all", self.name, "forward", 2 * count, tokens, size, is_bound),
            ]
            expected += forward
            if rank_view.trains:
                expected.append(replace(forward[1], phase="backward"))
            if rank_view.trains and rank_view.spec.train.checkpointing == "full":
                expected += [replace(t, phase="backward") for t in forward]
        num_groups, full_model = rank_view.mesh.axes[self.axis] // size, rank_view.full_model
        if rank_view.trains and num_groups > 1:
            payloads = [p.numel * rank_view.element_bytes for p in rank_view.local_model.parameters if not p.is_replicated]
            payloads += [len(payloads) * USED_BYTES] if full_model.reads_values else []
            expected += [
                ExpectedCommunication("all_reduce", self.axis, "backward", 1, payload, num_groups) for payload in payloads
            ]
        if _has_data(rank_view.spec):
            return expected
        searches = rank_view.trains and full_model.reads_values and rank_view.mesh.has_replicas_only
        return expected + expected_average(rank_view) + (expected_search(rank_view) if searches else [])

    def apply(self, worker: WorkerModel, mesh: DeviceMesh) -> None:
        from torch.distributed.device_mesh import DeviceMesh

        from workbench.strategies.expert.all_to_all import dispatch_over, divide

        replicas, size = mesh[self.axis], self.options.size
        worker.batch_part = (replicas.get_local_rank(), replicas.size())
        group = new_row_group(replicas.mesh.view(-1, size), replicas.get_rank())
        worker.axes[group.group_name] = self.name
        expert_mesh = DeviceMesh.from_group(group, worker.device.type)
        if worker.full_model.experts is not None:
            from workbench.strategies.expert.gathered_mixture import divide_mixtures

            blocks: Any = worker.blocks
            mixtures = worker.full_model.experts.mixtures
            num_samples = worker.batch_size // worker.rank_view.num_microbatches
            divide_mixtures(blocks.code, mixtures, expert_mesh, blocks, num_samples)
            of_lists = (name for m in mixtures if m.slots is None for names in m.parameters for name in names)
            worker.num_holders |= dict.fromkeys(of_lists, replicas.size() // size)
        for mixture in worker.rank_view.local_model.mixtures:
            layer: Any = worker.blocks.get_submodule(mixture.path)
            divide(layer.experts, expert_mesh)
            layer.dispatch = dispatch_over(group)

    def finish(self, worker: WorkerModel, mesh: DeviceMesh) -> None:
        from workbench.strategies.expert.all_to_all import average

        if not worker.trains:
            return
        if not _has_data(worker.rank_view.spec):
            average_gradients(worker, mesh, find_unused_parameters=worker.full_model.reads_values)
        replicas, size = mesh[self.axis], self.options.size
        same_experts = None
        if replicas.size() > size:
            same_experts = new_row_group(replicas.mesh.view(-1, size).T, replicas.get_rank())
            worker.axes[same_experts.group_name] = self.axis
        average(worker, replicas.size(), same_experts)


def new_row_group(rows: Tensor, rank: int) -> ProcessGroup:
    """Creates the process group of the workers in the row of this rank. It is not taken from the mesh: torch uses one group for
    dims with the same workers, whose operations could then not be told apart in the records."""
    import torch.distributed as dist

    row = next(row for row in rows.tolist() if rank in row)
    return dist.new_group(row, use_local_synchronization=True)


def _has_data(spec: RunSpec) -> bool:
    """Whether the data strategy averages the gradients of replicated parameters."""
    return any(name == "data" for name, _ in spec.split.items())
