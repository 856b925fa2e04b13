"""Options of data parallelism."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import PositiveFloat, PositiveInt

from workbench.spec.options import AppliesIf, StrategyOptions
from workbench.spec.units import SIZE_MIB
from workbench.strategies.data.compression import Compression
from workbench.strategies.data.ddp import BUCKET_SIZE_MIB

if TYPE_CHECKING:
    from workbench.plan.model_summary import ModelSummary

_DDP = AppliesIf("shard", ("none", "optimizer"))
_TRAINING = AppliesIf("mode", ("train",))


class DataOptions(StrategyOptions):
    shard: Literal["none", "optimizer", "gradients", "parameters"] = "none"
    """What is sharded over the workers: nothing (DDP), optimizer state (ZeRO-1), also gradients and, between steps, parameters
    (ZeRO-2), or parameters also between the forward and backward pass (ZeRO-3, FSDP)."""

    shard_size: Annotated[PositiveInt | None, AppliesIf("shard", ("gradients", "parameters"))] = None
    """Number of consecutive workers that parameters and gradients are sharded over, with replication across these groups (HSDP);
    by default all workers."""

    bucket_size_mib: Annotated[PositiveFloat, SIZE_MIB, _DDP, _TRAINING] = BUCKET_SIZE_MIB
    """Size of the DDP buckets in MiB, or with a unit such as "64KiB". Gradients are all-reduced in buckets during the backward
    pass."""

    num_accumulation_steps: Annotated[PositiveInt, _TRAINING] = 1
    """Number of gradient accumulation steps: equal parts of a worker's share of the batch, computed one after the other.
    Gradients are averaged over the workers after the last."""

    sync_batch_norm: Annotated[bool, _TRAINING] = False
    """Whether batch norm computes its statistics over all workers (``torch.nn.SyncBatchNorm``). Accumulation steps still have
    their own statistics."""

    find_unused_parameters: Annotated[bool | None, _DDP, _TRAINING] = None
    """Whether DDP searches in every step for parameters that the loss did not use, and averages zeros for them instead of waiting
    for their gradients; by default if the model has such parameters, or may have: its code reads values of tensors, as for a
    branch."""

    compression: Annotated[Compression, AppliesIf("shard", ("none",)), _TRAINING] = "none"
    """Gradient compression for the all-reduce: cast to fp16 or bf16, or low-rank approximation (PowerSGD, Vogels et al. 2019).
    The result then differs slightly from that of one worker."""

    compression_rank: Annotated[PositiveInt, AppliesIf("compression", ("powersgd",))] = 1
    """Rank of the PowerSGD approximation."""

    @property
    def is_sharded(self) -> bool:
        """Whether parameters and gradients are sharded (FSDP2)."""
        return self.shard in ("gradients", "parameters")

    def searches(self, model: ModelSummary) -> bool:
        """Returns whether DDP, where the split uses it, searches for unused parameters."""
        needs = bool(model.unused_parameters) or model.reads_values
        return needs if self.find_unused_parameters is None else self.find_unused_parameters

    @property
    def num_shards(self) -> int:
        """Number of workers that a parameter is sharded over."""
        return self.shard_size or self.size if self.is_sharded else 1
