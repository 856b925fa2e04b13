"""FSDP (ZeRO-2 and ZeRO-3): gradients and parameters sharded by torch's ``fully_shard``."""

from __future__ import annotations

from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from workbench.strategies.data.gradient_accumulation import quieten_views
from workbench.strategies.data.options import DataOptions
from workbench.strategies.data.sharding import units
from workbench.strategies.pipeline.stages import staged_strategy
from workbench.strategies.worker_model import WorkerModel


def shard_blocks(worker: WorkerModel, replicas: DeviceMesh, options: DataOptions) -> None:
    """Applies FSDP2 with each block as a unit and each stage as a root, which holds the parameters that the code between blocks
    reads. Schedules of several stages per worker gather and free a stage themselves, and split backward passes need it gathered
    from the first to the last use; blocks are then not resharded after forward."""
    quieten_views()
    shards = worker.divided(replicas, options.shard_size) if options.shard_size else replicas
    staged = staged_strategy(worker.rank_view.spec)
    policy = MixedPrecisionPolicy()
    if worker.compute_dtype != worker.dtype:
        policy = MixedPrecisionPolicy(param_dtype=worker.compute_dtype, reduce_dtype=worker.dtype)
    frees = options.shard == "parameters"
    if staged and staged.gathers_stages and not worker.rank_view.spec.generates:
        frees = False
    for stage in worker.stages:
        blocks = dict(stage.named_children())
        for unit in units(list(blocks), worker.full_model).called:
            fully_shard([blocks[name] for name in unit], mesh=shards, reshard_after_forward=frees, mp_policy=policy)
        fully_shard(stage, mesh=shards, reshard_after_forward=frees, mp_policy=policy)
