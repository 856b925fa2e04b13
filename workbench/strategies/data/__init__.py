"""Data parallelism: every worker computes a part of the batch, and gradients are averaged. Optionally shards optimizer state,
gradients and parameters (ZeRO, Rajbhandari et al. 2020)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from workbench.plan.communication import ExpectedCommunication
from workbench.plan.placement import Placement
from workbench.strategies.base import ApplyOrder, Caption, Limiting, Strategy, strategy
from workbench.strategies.data.checks import check_data, search_note
from workbench.strategies.data.compression import lossiness, sent_bytes
from workbench.strategies.data.ddp import (
    AVERAGING,
    average_gradients,
    averaged_by_ddp,
    averaging_advice,
    expected_search,
)
from workbench.strategies.data.options import DataOptions
from workbench.strategies.data.sharding import StageGathers, expected_fsdp, owned, shard
from workbench.strategies.pipeline.stages import staged_strategy

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from workbench.plan.lossy import Lossy
    from workbench.plan.model_summary import ModelSummary
    from workbench.plan.rank_view import RankView
    from workbench.spec.run_spec import RunSpec
    from workbench.strategies.worker_model import WorkerModel


@strategy("data")
class DataStrategy(Strategy[DataOptions]):
    """Data parallelism: splits the batch over the workers and averages gradients, with full replicas (DDP) or sharded ones
    (ZeRO-1 to 3, FSDP, HSDP)."""

    Options = DataOptions
    axis = "data"
    apply_order = ApplyOrder.DATA
    aliases = {
        "zero1": {"shard": "optimizer"},
        "zero2": {"shard": "gradients"},
        "zero3": {"shard": "parameters"},
        "fsdp": {"shard": "parameters"},
    }

    examples = {
        "": {},
        "zero1": {"shard": "optimizer"},
        "zero2": {"shard": "gradients"},
        "fsdp": {"shard": "parameters"},
        "accumulated": {"num_accumulation_steps": 2},
        "fsdp, accumulated": {"shard": "parameters", "num_accumulation_steps": 2},
        "small buckets": {"bucket_size_mib": 0.002},
        "fp16": {"compression": "fp16"},
        "bf16": {"compression": "bf16"},
        "powersgd": {"compression": "powersgd", "bucket_size_mib": 0.002},
        "batch norm synchronized": {"sync_batch_norm": True},
    }
    captions = {
        ("data", "all_gather", "forward"): Caption(
            "The parameters of each block are all-gathered just before it computes.", True
        ),
        ("data", "all_gather", "backward"): Caption("Parameters are all-gathered again for the backward pass.", True),
        ("data", "reduce_scatter", "backward"): Caption(
            "Gradients are reduce-scattered: each worker receives the average for the parameters it holds."
        ),
        ("data", "all_reduce", "backward"): AVERAGING,
        ("data", "broadcast", "optimizer"): Caption("Each worker broadcasts the parameters that it has updated."),
    }
    lessons = ("lesson.md", "sharded.md")
    lesson_order = 0

    @property
    def label(self) -> str:
        o = self.options
        parts = [f"fsdp{o.size}" if o.shard == "parameters" else f"dp{o.size}"]
        parts += {"optimizer": ["zero1"], "gradients": ["zero2"]}.get(o.shard, [])
        parts += [f"s{o.shard_size}"] if o.shard_size else []
        parts += [f"a{o.num_accumulation_steps}"] if o.num_accumulation_steps > 1 else []
        parts += ["sbn"] if o.sync_batch_norm else []
        if o.compression != "none":
            parts.append(o.compression + (f"{o.compression_rank}" if o.compression == "powersgd" else ""))
        return "-".join(parts)

    def advice(self, limit: Limiting, axis: str, spec: RunSpec) -> str:
        if (limit, axis) != ("communication", self.axis):
            return ""
        is_plain = spec.split.label == f"dp{self.options.size}"
        return averaging_advice(" (num_accumulation_steps), gradient compression" if is_plain else "")

    @property
    def num_microbatches(self) -> int:
        return self.options.num_accumulation_steps

    @property
    def why_no_generation(self) -> str:
        return ""

    @property
    def casts_parameters(self) -> bool:
        return self.options.is_sharded

    @property
    def lossy(self) -> Lossy | None:
        return lossiness(self.options.compression, self.options.size)

    def check(self, model: ModelSummary, spec: RunSpec) -> None:
        check_data(self.options, model, spec)

    def note(self, model: ModelSummary, spec: RunSpec) -> str:
        return search_note(self.options, model, spec)

    def place(self, model: ModelSummary, index: int) -> Placement:
        o = self.options
        local_model = shard(model, index % o.num_shards, o.num_shards)
        return Placement(
            local_model,
            gathered=model,
            allocated=shard(model, 0, o.num_shards),  # all shards have the number of rows of the first
            updated=owned(model, index, o.size) if o.shard == "optimizer" else local_model,
            allocates_unused=not o.is_sharded and o.searches(model),
        )

    def expected(self, model: ModelSummary, rank_view: RankView) -> list[ExpectedCommunication]:
        """DDP all-reduces all gradients once, compressed or not, in torch's buckets (Li et al. 2020). ZeRO-1 also broadcasts each
        updated parameter. ``expected_fsdp`` is the formula of FSDP and HSDP, ``_expected_batch_norms`` that of synchronized
        batch norm."""
        return [*self._expected_batch_norms(rank_view), *self._expected_gradients(model, rank_view)]

    def _expected_gradients(self, model: ModelSummary, rank_view: RankView) -> list[ExpectedCommunication]:
        if self.options.is_sharded:
            return list(
                expected_fsdp(model, rank_view, self.options.size, self.options.num_shards, self._gathers(model, rank_view))
            )
        if not rank_view.trains:
            return []
        o, axis, size = self.options, "+".join(rank_view.mesh.replica_axes), rank_view.mesh.num_copies
        gradients = [
            sent_bytes(p, o.compression, o.compression_rank, rank_view.element_bytes) for p in averaged_by_ddp(rank_view)
        ]
        expected = [ExpectedCommunication("all_reduce", axis, "backward", 1, sum(gradients), size)]
        if rank_view.mesh.has_replicas_only and o.searches(rank_view.full_model):
            expected += expected_search(rank_view)
        if o.shard == "optimizer":
            sizes = [p.numel * rank_view.element_bytes for p in model.distinct_parameters if p.requires_grad]
            expected += [ExpectedCommunication("broadcast", axis, "optimizer", 1, payload, size) for payload in sizes]
        return expected

    def _gathers(self, model: ModelSummary, rank_view: RankView) -> Iterator[StageGathers]:
        """Yields for each local stage how often it is gathered in the forward and backward passes of a step."""
        is_freed, count = self.options.shard == "parameters", self.options.num_accumulation_steps
        staged = staged_strategy(rank_view.spec)
        if rank_view.spec.generates:
            passes = rank_view.num_microbatches * rank_view.spec.inference.num_new_tokens
            yield StageGathers(tuple(b.name for b in rank_view.local_model.blocks), passes, 0, passes)
            return
        if staged is None:
            num_regathers = count if is_freed and rank_view.trains else 0
            yield StageGathers(tuple(b.name for b in model.blocks), count, num_regathers, count)
            return
        for stage, blocks in enumerate(staged.stages(rank_view.full_model)):
            if staged.worker_of_stage[stage] == rank_view.index(staged.axis):
                forward, backward = staged.gathers(stage, rank_view.trains) if is_freed else (1, 0)
                yield StageGathers(blocks, forward, backward, staged.gathers(stage, False)[0] if is_freed else 1)

    def _expected_batch_norms(self, rank_view: RankView) -> Iterator[ExpectedCommunication]:
        """Returns the communication of each batch norm and microbatch, two numbers of at least single precision per channel.
        Forward all-gathers the mean and variance of every worker; backward all-reduces two sums. Activation checkpointing
        repeats the all-gather in backward."""
        size, count = self.options.size, rank_view.num_microbatches
        for norm in rank_view.local_model.batch_norms if self.options.sync_batch_norm else ():
            payload = 2 * norm.num_features * max(4, rank_view.element_bytes)
            gathered = ExpectedCommunication("all_gather", self.axis, "forward", count, size * payload, size)
            yield gathered
            yield ExpectedCommunication("all_reduce", self.axis, "backward", count, payload, size)
            if rank_view.spec.train.checkpointing != "none":
                yield replace(gathered, phase="backward")

    def apply(self, worker: WorkerModel, mesh: DeviceMesh) -> None:
        replicas = mesh[self.axis]
        worker.batch_part = (replicas.get_local_rank(), replicas.size())
        if self.options.sync_batch_norm:
            from workbench.strategies.data.sync_batch_norm import synchronize_batch_norms

            synchronize_batch_norms(worker.blocks, replicas.get_group())
            worker.normalizes_together = True

    def finish(self, worker: WorkerModel, mesh: DeviceMesh) -> None:
        o = self.options
        if self.options.is_sharded:
            from workbench.strategies.data.fsdp import shard_blocks

            shard_blocks(worker, mesh[self.axis], o)
        else:
            average_gradients(worker, mesh, o.bucket_size_mib, o.searches(worker.full_model))
        if o.compression != "none":
            from workbench.strategies.data.compression_hooks import compress

            compress(worker.module, o.compression, o.compression_rank, mesh.get_group(self.axis))  # type: ignore[arg-type]
        if o.shard == "optimizer":
            from workbench.strategies.data.zero1 import sharded_optimizer

            worker.make_optimizer = sharded_optimizer(mesh.get_group(self.axis))
        if o.num_accumulation_steps > 1:
            from workbench.strategies.data.gradient_accumulation import accumulate

            accumulate(worker, o.num_accumulation_steps)
