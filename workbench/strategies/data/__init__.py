"""Data parallelism: every worker computes a part of the batch, and gradients are averaged. Optionally shards optimizer state,
gradients and parameters (ZeRO, Rajbhandari et al. 2020)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import PositiveFloat, PositiveInt

from workbench.errors import SplitError
from workbench.plan.communication import ExpectedCommunication
from workbench.plan.model_summary import block_of
from workbench.spec.options import StrategyOptions
from workbench.strategies.base import Caption, Limiting, Strategy, strategy
from workbench.strategies.data.compression import Compression, lossiness, sent_bytes
from workbench.strategies.data.ddp import (
    AVERAGING,
    BUCKET_SIZE_MIB,
    average_gradients,
    averaged_by_ddp,
    averages_with_ddp,
    averaging_advice,
    check_replicas,
    expected_search,
)
from workbench.strategies.data.sharding import StageGathers, expected_fsdp, owners, shard, units
from workbench.strategies.pipeline.stages import StagedStrategy
from workbench.strategies.pipeline.stages import staged as _staged

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from workbench.plan.lossy import Lossy
    from workbench.plan.model_summary import ModelSummary
    from workbench.plan.rank_view import RankView
    from workbench.spec.run_spec import RunSpec
    from workbench.strategies.worker_model import WorkerModel

MAX_STAGES_HELD = 3  # kept gathered by torch's schedules of several stages per worker (_add_unshard_reshard)


class DataOptions(StrategyOptions):
    shard: Literal["none", "optimizer", "gradients", "parameters"] = "none"
    """What is sharded over the workers: nothing (DDP), optimizer state (ZeRO-1), also gradients and, between steps, parameters
    (ZeRO-2), or parameters also between the forward and backward pass (ZeRO-3, FSDP)."""

    shard_size: PositiveInt | None = None
    """Number of consecutive workers that parameters and gradients are sharded over, with replication across these groups (HSDP);
    by default all workers."""

    bucket_size_mib: PositiveFloat = BUCKET_SIZE_MIB
    """Size in MiB of the DDP buckets, in which gradients are all-reduced during the backward pass."""

    num_accumulation_steps: PositiveInt = 1
    """Number of gradient accumulation steps: equal parts of a worker's share of the batch, computed one after the other.
    Gradients are averaged over the workers after the last."""

    sync_batch_norm: bool = False
    """Whether batch norm computes its statistics over all workers (``torch.nn.SyncBatchNorm``). Accumulation steps still have
    their own statistics."""

    find_unused_parameters: bool = False
    """Whether DDP searches in every step for parameters that the forward pass did not use, and averages zeros for them instead of
    waiting for their gradients."""

    compression: Compression = "none"
    """Gradient compression for the all-reduce: cast to fp16 or bf16, or low-rank approximation (PowerSGD, Vogels et al. 2019).
    The result then differs slightly from that of one worker."""

    compression_rank: PositiveInt = 1
    """Rank of the PowerSGD approximation."""


@strategy("data")
class DataStrategy(Strategy[DataOptions]):
    """Data parallelism: splits the batch over the workers and averages gradients, with full replicas (DDP) or sharded ones
    (ZeRO-1 to 3, FSDP, HSDP)."""

    Options = DataOptions
    axis = "data"
    apply_order = 2
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
    def is_sharded(self) -> bool:
        """Whether parameters and gradients are sharded (FSDP2)."""
        return self.options.shard in ("gradients", "parameters")

    @property
    def casts_parameters(self) -> bool:
        return self.is_sharded

    @property
    def num_shards(self) -> int:
        """Number of workers that a parameter is sharded over."""
        return self.options.shard_size or self.options.size if self.is_sharded else 1

    @property
    def lossy(self) -> Lossy | None:
        return lossiness(self.options.compression, self.options.size)

    def check(self, model: ModelSummary, spec: RunSpec) -> None:
        o, batch = self.options, spec.train.global_batch_size
        if batch % o.size:
            raise SplitError(
                "split.data.size",
                f"the global batch size {batch} is not divisible by {o.size} workers (remainder {batch % o.size});"
                f" use a divisor of {batch}, or set train.global_batch_size to a multiple of {o.size}",
            )
        if o.sync_batch_norm:
            self._check_batch_norms(model, spec)
        if o.shard_size and not self.is_sharded:
            raise SplitError(
                "split.data.shard_size", f'requires shard = "gradients" or "parameters", but shard = "{o.shard}"; remove it'
            )
        if o.shard_size and (o.size % o.shard_size or not 1 < o.shard_size < o.size):
            allowed = [n for n in range(2, o.size) if o.size % n == 0]
            raise SplitError(
                "split.data.shard_size",
                f"{o.size} workers cannot be divided into several equal groups of {o.shard_size};"
                f" {'use ' + ' or '.join(map(str, allowed)) + ', or remove it' if allowed else 'remove it'}",
            )
        training_options = {
            f'shard = "{o.shard}"': o.shard in ("optimizer", "gradients"),
            f'compression = "{o.compression}"': o.compression != "none",
            f"num_accumulation_steps = {o.num_accumulation_steps}": o.num_accumulation_steps > 1,
        }
        if spec.mode == "inference" and any(training_options.values()):
            setting = next(text for text, is_set in training_options.items() if is_set)
            absent = "optimizer state" if o.shard == "optimizer" else "gradients"
            raise SplitError("split.data", f'{setting} requires mode = "train": inference has no {absent}')
        if o.shard != "none" and any(name == "context" for name, _ in spec.split.items()):
            raise SplitError(
                "split.data.shard",
                f'"{o.shard}" is incompatible with context: it shards over the data axis, but replicas span data × context',
            )
        check_replicas(model, spec, "split.data.shard" if self.is_sharded else "split.data", self.is_sharded)
        self._check_unused(model, spec)
        self._check_compression(model, spec)
        self._check_accumulation(spec)
        if staged := _staged(spec):
            self._check_stages(staged, model)

    def _check_unused(self, model: ModelSummary, spec: RunSpec) -> None:
        field, has_ddp = "split.data.find_unused_parameters", self._has_ddp(spec)
        if self.options.find_unused_parameters and not has_ddp:
            raise SplitError(field, "is an option of DDP, which this split does not use; remove it")
        unused = [p.name for p in model.unused_parameters]
        if unused and has_ddp and not self.options.find_unused_parameters and spec.mode == "train":
            names = f"{' and '.join(unused[:2])}{f' and {len(unused) - 2} more' if len(unused) > 2 else ''}"
            raise SplitError(
                field,
                f"DDP waits for the gradients of all parameters, but the forward pass of {model.name} does not use {names};"
                " set it to true, freeze these parameters, or shard gradients (zero2, fsdp)",
            )

    def _has_ddp(self, spec: RunSpec) -> bool:
        return not self.is_sharded and averages_with_ddp(spec)

    def _check_compression(self, model: ModelSummary, spec: RunSpec) -> None:
        scalar = next((p.name for p in model.trained_parameters if not p.shape), None)
        if scalar is not None and self.options.compression == "powersgd":
            raise SplitError(
                "split.data.compression", f"torch's PowerSGD does not support scalar parameters such as {scalar}; use fp16"
            )
        if spec.link.parts and self.options.compression == "powersgd":
            reason = (
                "torch's hook waits for one all-reduce inside the completion of another, which link emulation does not support"
            )
            raise SplitError(
                "split.data.compression",
                f"powersgd is incompatible with an emulated link: {reason}; use fp16 or bf16, or remove the link",
            )
        other_strategies = [name for name, _ in spec.split.items() if name != self.name]
        if self.options.compression == "none" or not (self.is_sharded or other_strategies):
            return
        setting = f"together with {other_strategies[0]}" if other_strategies else f'with shard = "{self.options.shard}"'
        raise SplitError("split.data.compression", f"requires DDP, which torch does not use {setting}; use none")

    def _check_accumulation(self, spec: RunSpec) -> None:
        count, batch = self.options.num_accumulation_steps, spec.samples_per_replica
        if count > 1 and (staged := _staged(spec)):
            raise SplitError(
                "split.data.num_accumulation_steps",
                f"{count} is incompatible with {staged.name}, which accumulates gradients over its microbatches;"
                f" set split.pipeline.num_microbatches = {count} instead",
            )
        if batch % count:
            raise SplitError(
                "split.data.num_accumulation_steps",
                f"the {batch} samples of a worker are not divisible into {count} accumulation steps (remainder {batch % count})",
            )

    def _check_stages(self, staged: StagedStrategy[Any], model: ModelSummary) -> None:
        stage_by_block = {block: stage for stage, blocks in enumerate(staged.stages(model)) for block in blocks}
        for first, second in staged.ties_within_workers(model):
            raise SplitError(
                "split.data",
                f"{second} and {first} are tied, but belong to stages {stage_by_block[block_of(first)]} and"
                f" {stage_by_block[block_of(second)]} of the same worker, which average their gradients separately; use untied"
                " weights or another schedule",
            )
        per_worker = max(Counter(staged.worker_of_stage).values())
        if self.is_sharded and per_worker > MAX_STAGES_HELD:
            raise SplitError(
                "split.pipeline.stages_per_worker",
                f"torch's schedules keep at most {MAX_STAGES_HELD} sharded stages per worker gathered, but got {per_worker};"
                f' use at most {MAX_STAGES_HELD}, or split.data.shard = "none"',
            )

    def place(self, model: ModelSummary, index: int) -> ModelSummary:
        return shard(model, index % self.num_shards, self.num_shards)

    def allocates(self, model: ModelSummary, index: int) -> ModelSummary:
        """All shards are allocated with the number of rows of the first."""
        return shard(model, 0, self.num_shards)

    def buffers_unused(self, spec: RunSpec) -> bool:
        return self.options.find_unused_parameters

    def updates(self, local_model: ModelSummary, index: int) -> ModelSummary:
        """ZeRO-1 assigns whole parameters to workers, balanced by size."""
        if self.options.shard != "optimizer":
            return local_model
        parameters = tuple(p for p in local_model.distinct_parameters if p.requires_grad)
        owner = owners([p.numel for p in parameters], self.options.size)
        local_names = {p.name for p, worker in zip(parameters, owner, strict=True) if worker == index}
        blocks = [replace(b, parameters=tuple(p for p in b.parameters if p.name in local_names)) for b in local_model.blocks]
        return replace(local_model, blocks=tuple(blocks))

    def expected(self, model: ModelSummary, rank_view: RankView) -> list[ExpectedCommunication]:
        """DDP all-reduces all gradients once, compressed or not, in torch's buckets (Li et al. 2020). ZeRO-1 also broadcasts each
        updated parameter. ``expected_fsdp`` is the formula of FSDP and HSDP, ``_expected_batch_norms`` that of synchronized
        batch norm."""
        return [*self._expected_batch_norms(rank_view), *self._expected_gradients(model, rank_view)]

    def _expected_gradients(self, model: ModelSummary, rank_view: RankView) -> list[ExpectedCommunication]:
        if self.is_sharded:
            return list(expected_fsdp(model, rank_view, self.options.size, self.num_shards, self._gathers(model, rank_view)))
        if not rank_view.trains:
            return []
        o, axis, size = self.options, "+".join(rank_view.mesh.replica_axes), rank_view.mesh.num_copies
        gradients = [
            sent_bytes(p, o.compression, o.compression_rank, rank_view.element_bytes) for p in averaged_by_ddp(rank_view)
        ]
        expected = [ExpectedCommunication("all_reduce", axis, "backward", 1, sum(gradients), size)]
        expected += expected_search(rank_view) if o.find_unused_parameters else []
        if o.shard == "optimizer":
            sizes = [p.numel * rank_view.element_bytes for p in model.distinct_parameters if p.requires_grad]
            expected += [ExpectedCommunication("broadcast", axis, "optimizer", 1, payload, size) for payload in sizes]
        return expected

    def _gathers(self, model: ModelSummary, rank_view: RankView) -> Iterator[StageGathers]:
        """Yields for each local stage how often it is gathered in the forward and backward passes of a step."""
        is_freed, count = self.options.shard == "parameters", self.options.num_accumulation_steps
        staged = _staged(rank_view.spec)
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

    def _check_batch_norms(self, model: ModelSummary, spec: RunSpec) -> None:
        field, tensor = "split.data.sync_batch_norm", dict(spec.split.items()).get("tensor")
        if not model.batch_norms:
            raise SplitError(field, f"{model.name} has no batch norm to synchronize; remove it, or use cnn with norm = batch")
        if spec.mode == "inference":
            raise SplitError(field, 'requires mode = "train": inference uses running statistics; remove it')
        if getattr(tensor, "cut", {}).get("convolution") == "rows":
            raise SplitError(field, "does not support convolutions cut by rows; cut them by channels")

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
        if self.is_sharded:
            self._shard_blocks(worker, mesh[self.axis])
        else:
            average_gradients(worker, mesh, o.bucket_size_mib, o.find_unused_parameters)
        if o.compression != "none":
            from workbench.strategies.data.compression_hooks import compress

            compress(worker.module, o.compression, o.compression_rank, mesh.get_group(self.axis))  # type: ignore[arg-type]
        if o.shard == "optimizer":
            from workbench.strategies.data.zero1 import sharded_optimizer

            worker.make_optimizer = sharded_optimizer(mesh.get_group(self.axis))
        if o.num_accumulation_steps > 1:
            from workbench.strategies.data.gradient_accumulation import accumulate

            accumulate(worker, o.num_accumulation_steps)

    def _shard_blocks(self, worker: WorkerModel, replicas: DeviceMesh) -> None:
        """Applies FSDP2 with each block as a unit and each stage as a root. Schedules of several stages per worker gather and
        free a stage themselves, and split backward passes need it gathered from the first to the last use; blocks are then not
        resharded after forward."""
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        from workbench.strategies.data.gradient_accumulation import quieten_views

        quieten_views()
        shards = worker.divided(replicas, self.options.shard_size) if self.options.shard_size else replicas
        staged = _staged(worker.rank_view.spec)
        policy = MixedPrecisionPolicy()
        if worker.compute_dtype != worker.dtype:
            policy = MixedPrecisionPolicy(param_dtype=worker.compute_dtype, reduce_dtype=worker.dtype)
        frees = self.options.shard == "parameters"
        if staged and staged.gathers_stages and not worker.rank_view.spec.generates:
            frees = False
        for stage in worker.stages:
            blocks = dict(stage.named_children())
            for unit in units(list(blocks), worker.summary):
                fully_shard([blocks[name] for name in unit], mesh=shards, reshard_after_forward=frees, mp_policy=policy)
            fully_shard(stage, mesh=shards, reshard_after_forward=frees, mp_policy=policy)
