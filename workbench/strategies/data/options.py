"""Options of data parallelism."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from workbench.spec.options import StrategyOptions
from workbench.strategies.data.compression import Compression
from workbench.strategies.data.ddp import BUCKET_SIZE_MIB


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

    @property
    def is_sharded(self) -> bool:
        """Whether parameters and gradients are sharded (FSDP2)."""
        return self.shard in ("gradients", "parameters")

    @property
    def num_shards(self) -> int:
        """Number of workers that a parameter is sharded over."""
        return self.shard_size or self.size if self.is_sharded else 1
