"""Checks of data parallelism: the configurations that it does not support, each with its reason."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from workbench.errors import SplitError
from workbench.messages import listed
from workbench.plan.model_summary import block_of
from workbench.strategies.data.ddp import averages_with_ddp, check_replicas
from workbench.strategies.pipeline.stages import StagedStrategy, staged_strategy

if TYPE_CHECKING:
    from workbench.plan.model_summary import ModelSummary
    from workbench.spec.run_spec import RunSpec
    from workbench.strategies.data.options import DataOptions

MAX_STAGES_HELD = 3  # kept gathered by torch's schedules of several stages per worker (_add_unshard_reshard)


def check_data(o: DataOptions, model: ModelSummary, spec: RunSpec) -> None:
    """Rejects a configuration that data parallelism does not support.

    Raises:
        SplitError: the message includes the numbers.
    """
    batch = spec.train.global_batch_size
    if batch % o.size:
        raise SplitError(
            "split.data.size",
            f"the global batch size {batch} is not divisible by {o.size} workers (remainder {batch % o.size});"
            f" use a divisor of {batch}, or set train.global_batch_size to a multiple of {o.size}",
        )
    if o.sync_batch_norm:
        _check_batch_norms(o, model, spec)
    if o.shard_size and not o.is_sharded:
        raise SplitError(
            "split.data.shard_size", f'requires shard = "gradients" or "parameters", but shard = "{o.shard}"; remove it'
        )
    if o.shard_size and (o.size % o.shard_size or not 1 < o.shard_size < o.size):
        allowed = [n for n in range(2, o.size) if o.size % n == 0]
        raise SplitError(
            "split.data.shard_size",
            f"{o.size} workers cannot be divided into several equal groups of {o.shard_size};"
            f" {'use ' + listed([*map(str, allowed)], 'or') + ', or remove it' if allowed else 'remove it'}",
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
    check_replicas(model, spec, "split.data.shard" if o.is_sharded else "split.data", o.is_sharded)
    _check_unused(o, model, spec)
    _check_compression(o, model, spec)
    _check_accumulation(o, spec)
    if staged := staged_strategy(spec):
        _check_stages(o, staged, model)


def _check_unused(o: DataOptions, model: ModelSummary, spec: RunSpec) -> None:
    field, has_ddp = "split.data.find_unused_parameters", _has_ddp(o, spec)
    if o.find_unused_parameters and not has_ddp:
        raise SplitError(field, "is an option of DDP, which this split does not use; remove it")
    if model.unused_parameters and has_ddp and o.find_unused_parameters is False and spec.mode == "train":
        raise SplitError(
            field,
            f"DDP waits for the gradients of all parameters, but the forward pass of {model.name} does not use {_unused(model)};"
            " set it to true or leave it out, freeze these parameters, or shard gradients (zero2, fsdp)",
        )


def search_note(o: DataOptions, model: ModelSummary, spec: RunSpec) -> str:
    """Returns why DDP searches for unused parameters although no option says so; empty if it does not."""
    if spec.mode != "train" or not _has_ddp(o, spec) or o.find_unused_parameters is not None or not o.searches(model):
        return ""
    why = "reads values of tensors, on which may depend which parameters it uses"
    if model.unused_parameters:
        why = f"does not use {_unused(model)}"
    return f"DDP searches for unused parameters in every step (find_unused_parameters), since the forward pass {why}"


def _unused(model: ModelSummary) -> str:
    unused = [p.name for p in model.unused_parameters]
    return f"{' and '.join(unused[:2])}{f' and {len(unused) - 2} more' if len(unused) > 2 else ''}"


def _has_ddp(o: DataOptions, spec: RunSpec) -> bool:
    return not o.is_sharded and averages_with_ddp(spec)


def _check_compression(o: DataOptions, model: ModelSummary, spec: RunSpec) -> None:
    scalar = next((p.name for p in model.trained_parameters if not p.shape), None)
    if scalar is not None and o.compression == "powersgd":
        raise SplitError(
            "split.data.compression", f"torch's PowerSGD does not support scalar parameters such as {scalar}; use fp16"
        )
    if spec.link.parts and o.compression == "powersgd":
        reason = "torch's hook waits for one all-reduce inside the completion of another, which link emulation does not support"
        raise SplitError(
            "split.data.compression",
            f"powersgd is incompatible with an emulated link: {reason}; use fp16 or bf16, or remove the link",
        )
    other_strategies = [name for name, _ in spec.split.items() if name != "data"]
    if o.compression == "none" or not (o.is_sharded or other_strategies):
        return
    setting = f"together with {other_strategies[0]}" if other_strategies else f'with shard = "{o.shard}"'
    raise SplitError("split.data.compression", f"requires DDP, which torch does not use {setting}; use none")


def _check_accumulation(o: DataOptions, spec: RunSpec) -> None:
    count, batch = o.num_accumulation_steps, spec.samples_per_replica
    if count > 1 and (staged := staged_strategy(spec)):
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


def _check_stages(o: DataOptions, staged: StagedStrategy[Any], model: ModelSummary) -> None:
    stage_by_block = {block: stage for stage, blocks in enumerate(staged.stages(model)) for block in blocks}
    for first, second in staged.ties_within_workers(model):
        raise SplitError(
            "split.data",
            f"{second} and {first} are tied, but belong to stages {stage_by_block[block_of(first)]} and"
            f" {stage_by_block[block_of(second)]} of the same worker, which average their gradients separately; use untied"
            " weights or another schedule",
        )
    per_worker = max(Counter(staged.worker_of_stage).values())
    if o.is_sharded and per_worker > MAX_STAGES_HELD:
        raise SplitError(
            "split.pipeline.stages_per_worker",
            f"torch's schedules keep at most {MAX_STAGES_HELD} sharded stages per worker gathered, but got {per_worker};"
            f' use at most {MAX_STAGES_HELD}, or split.data.shard = "none"',
        )


def _check_batch_norms(o: DataOptions, model: ModelSummary, spec: RunSpec) -> None:
    field, tensor = "split.data.sync_batch_norm", dict(spec.split.items()).get("tensor")
    if not model.batch_norms:
        raise SplitError(field, f"{model.name} has no batch norm to synchronize; remove it, or use cnn with norm = batch")
    if spec.mode == "inference":
        raise SplitError(field, 'requires mode = "train": inference uses running statistics; remove it')
    if getattr(tensor, "cut", {}).get("convolution") == "rows":
        raise SplitError(field, "does not support convolutions cut by rows; cut them by channels")
