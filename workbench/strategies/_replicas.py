"""Replicas: workers along the data and context axes hold equal parameters and average their gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.plan.mesh import REPLICA_AXES
from workbench.plan.transfer import Transfer
from workbench.strategies._sharding import units

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from workbench.plan.share import Share
    from workbench.strategies.worker_model import WorkerModel

BUCKET_SIZE_MIB = 25.0  # torch's default


def expected_average(share: Share) -> list[Transfer]:
    """All gradients once: the bytes of every parameter averaged, in as many buckets as torch makes (Li et al. 2020)."""
    axis, gradients = (
        "+".join(share.mesh.replica_axes),
        sum(p.numel for p in share.held.averaged_parameters) * share.element_bytes,
    )
    return [Transfer("all_reduce", axis, "backward", 1, gradients, share.mesh.num_copies)] if share.trains else []


def replicas_mesh(mesh: DeviceMesh) -> DeviceMesh:
    """The workers that hold the same parameters as this one, as a mesh of one dim: ``data``, ``context`` or, of both
    flattened, ``data+context``."""
    assert mesh.mesh_dim_names is not None
    axes = tuple(axis for axis in REPLICA_AXES if axis in mesh.mesh_dim_names)
    return mesh[axes]._flatten("+".join(axes)) if len(axes) > 1 else mesh[axes[0]]


def average_gradients(worker: WorkerModel, mesh: DeviceMesh, bucket_size_mib: float = BUCKET_SIZE_MIB) -> None:
    """Gradients become the mean over all replicas while backward goes on; but for those of parameters that not all hold."""
    from torch.nn.parallel import DistributedDataParallel

    if not worker.trains:
        return
    replicas = replicas_mesh(mesh)
    assert mesh.mesh_dim_names is not None
    worker.axes[replicas.get_group().group_name] = "+".join(replicas.mesh_dim_names or ())
    if not any(p.requires_grad for p in worker.blocks.parameters()):
        return  # torch's wrappers refuse a module that has nothing to average
    apart = {p.name for p in worker.share.held.parameters if not p.is_replicated}
    if not set(mesh.mesh_dim_names) <= set(REPLICA_AXES):
        _replicate_blocks(worker, replicas, apart)
        return
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(worker.module, apart)
    worker.module = DistributedDataParallel(
        worker.module,
        process_group=replicas.get_group(),
        bucket_cap_mb=bucket_size_mib,
        gradient_as_bucket_view=True,  # the buckets are the gradients: no second copy
        **_own_buffers(),
    )


def _own_buffers() -> dict[str, Any]:
    """DDP's option by which batch norm's running statistics stay each replica's own; renamed in torch 2.13."""
    from inspect import signature

    from torch.nn.parallel import DistributedDataParallel

    name = "forward_sync_buffers"
    return {name if name in signature(DistributedDataParallel).parameters else "broadcast_buffers": False}


def _replicate_blocks(worker: WorkerModel, replicas: DeviceMesh, apart: set[str]) -> None:
    """DDP takes neither cut parameters nor a pipeline's microbatches; torch's composable form takes both. A bucket is a
    block, without the parameters named in ``apart``."""
    from torch.distributed._composable.replicate_with_fsdp import replicate

    from workbench.strategies.data_modules import quieten_views

    quieten_views()
    for stage in worker.stages:
        blocks, ignored = dict(stage.named_children()), {p for name, p in stage.named_parameters() if name in apart}
        for unit in units(list(blocks), worker.summary):
            replicate([blocks[name] for name in unit], mesh=replicas, ignored_params=ignored)
        replicate(stage, mesh=replicas, ignored_params=ignored)
