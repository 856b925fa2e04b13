"""DDP: workers along the data and context axes hold equal parameters and average their gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.errors import SplitError
from workbench.plan.communication import ExpectedCommunication
from workbench.plan.mesh import REPLICA_AXES, uses_ddp
from workbench.registry import STRATEGIES
from workbench.strategies.base import Caption
from workbench.strategies.data.sharding import units

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from workbench.plan.model_summary import ModelSummary, ParameterSummary
    from workbench.plan.rank_view import RankView
    from workbench.spec.run_spec import RunSpec
    from workbench.strategies.worker_model import WorkerModel

BUCKET_SIZE_MIB = 25.0  # torch's default
AVERAGING = Caption("Gradients are averaged over the workers; afterwards all workers have the same.")

USED_BYTES = 4  # whether a parameter was used, an int32


def averages_with_ddp(spec: RunSpec) -> bool:
    """Whether an unsharded run of this spec averages gradients with DDP."""
    return uses_ddp(STRATEGIES.get(name).axis for name, _ in spec.split.items())


def check_replicas(model: ModelSummary, spec: RunSpec, field: str, is_sharded: bool = False) -> None:
    """Rejects what torch's wrappers that shard rows, FSDP2 and ``replicate``, do not support: scalar parameters, and those of a
    block that the module around the blocks has, too.

    Raises:
        SplitError: the message includes the name of the parameter.
    """
    if not is_sharded and (spec.mode != "train" or averages_with_ddp(spec)):
        return
    other_strategies = [name for name, _ in spec.split.items() if STRATEGIES.get(name).axis not in REPLICA_AXES]
    wrapper = "FSDP" if is_sharded else f"torch's replicate, which data uses with {other_strategies[0]},"
    if alias := next((block.alias for block in model.blocks if block.alias), ""):
        raise SplitError(
            field,
            f"{wrapper} replaces the parameters of blocks, but {alias} of {model.name} is one of them under another name, in"
            ' the code between the blocks; use data alone with shard = "none" or "optimizer"',
        )
    if scalar := next((p.name for p in model.distinct_parameters if not p.shape), ""):
        raise SplitError(
            field,
            f"{wrapper} does not support scalar parameters such as {scalar} of {model.name}; use a parameter of shape (1,),"
            ' or data alone with shard = "none" or "optimizer"',
        )


def check_all_trained(model: ModelSummary, spec: RunSpec, field: str) -> None:
    """Rejects frozen and unused parameters: with them the backward pass ends early, and its communication has no formula.

    Raises:
        SplitError: the message includes the name of the parameter.
    """
    excluded = next((p.name for p in model.parameters if not p.has_gradient), None)
    if excluded is not None and spec.mode == "train":
        raise SplitError(
            field,
            f"does not support frozen or unused parameters, such as {excluded} of {model.name}; use data, layer or pipeline",
        )


def averaged_by_ddp(rank_view: RankView) -> tuple[ParameterSummary, ...]:
    """Returns the parameters whose gradients are averaged; DDP averages zeros for unused ones (``find_unused_parameters``)."""
    unused = rank_view.local_model.unused_parameters if rank_view.mesh.has_replicas_only else ()
    return rank_view.local_model.averaged_parameters + tuple(p for p in unused if p.is_replicated)


def expected_search(rank_view: RankView) -> list[ExpectedCommunication]:
    """Returns the communication of DDP's search for unused parameters: an int32 per trained parameter."""
    count = sum(p.requires_grad and p.is_replicated for p in rank_view.local_model.distinct_parameters)
    axis = "+".join(rank_view.mesh.replica_axes)
    return [ExpectedCommunication("all_reduce", axis, "backward", 1, count * USED_BYTES, rank_view.mesh.num_copies)]


def averaging_advice(pieces: str = "") -> str:
    """Returns the suggestion for runs limited by averaging; ``pieces`` adds options that make averages fewer or smaller."""
    return f"Try a larger batch per gradient synchronization{pieces} or fewer workers along data."


def expected_average(rank_view: RankView) -> list[ExpectedCommunication]:
    """Returns the all-reduce of all averaged gradients, in torch's buckets (Li et al. 2020)."""
    if not rank_view.trains:
        return []
    axis, gradients = (
        "+".join(rank_view.mesh.replica_axes),
        sum(p.numel for p in rank_view.local_model.averaged_parameters) * rank_view.element_bytes,
    )
    return [ExpectedCommunication("all_reduce", axis, "backward", 1, gradients, rank_view.mesh.num_copies)]


def replicas_mesh(mesh: DeviceMesh) -> DeviceMesh:
    """Returns the workers with the same parameters as a one-dimensional mesh: ``data``, ``context`` or, flattened,
    ``data+context``."""
    from workbench.torch_private.distributed import flattened

    assert mesh.mesh_dim_names is not None
    axes = tuple(axis for axis in REPLICA_AXES if axis in mesh.mesh_dim_names)
    return flattened(mesh[axes], "+".join(axes)) if len(axes) > 1 else mesh[axes[0]]


def average_gradients(
    worker: WorkerModel,
    mesh: DeviceMesh,
    bucket_size_mib: float = BUCKET_SIZE_MIB,
    find_unused_parameters: bool = False,
) -> None:
    """Averages gradients over all replicas during backward, except those of parameters that not all replicas hold."""
    from torch.nn.parallel import DistributedDataParallel

    from workbench.torch_private.distributed import leave_out_of_ddp

    if not worker.trains:
        return
    replicas = replicas_mesh(mesh)
    assert mesh.mesh_dim_names is not None
    worker.axes[replicas.get_group().group_name] = "+".join(replicas.mesh_dim_names or ())
    if not any(p.requires_grad for p in worker.blocks.parameters()):
        return  # torch's wrappers reject a module without trained parameters
    excluded = {p.name for p in worker.rank_view.local_model.parameters if not p.is_replicated}
    if not uses_ddp(mesh.mesh_dim_names):
        _replicate_blocks(worker, replicas, excluded)
        return
    leave_out_of_ddp(worker.module, excluded)
    worker.module = DistributedDataParallel(
        worker.module,
        process_group=replicas.get_group(),
        bucket_cap_mb=bucket_size_mib,
        gradient_as_bucket_view=True,  # the buckets are the gradients: no second copy
        find_unused_parameters=find_unused_parameters,
        **_local_buffers_option(),
    )


def _local_buffers_option() -> dict[str, Any]:
    """Returns the DDP option that keeps the running statistics of batch norm local to each replica; renamed in torch 2.13."""
    from inspect import signature

    from torch.nn.parallel import DistributedDataParallel

    name = "forward_sync_buffers"
    return {name if name in signature(DistributedDataParallel).parameters else "broadcast_buffers": False}


def _replicate_blocks(worker: WorkerModel, replicas: DeviceMesh, excluded: set[str]) -> None:
    """Averages gradients with torch's composable ``replicate``, which supports DTensors and microbatches. Each block is a bucket,
    as are the parameters that the code between the blocks reads; those named in ``excluded`` are left out."""
    from workbench.strategies.data.gradient_accumulation import quieten_views
    from workbench.torch_private.fsdp import replicate

    quieten_views()
    for stage in worker.stages:
        blocks, ignored = dict(stage.named_children()), {p for name, p in stage.named_parameters() if name in excluded}
        for unit in units(list(blocks), worker.full_model).called:
            replicate([blocks[name] for name in unit], mesh=replicas, ignored_params=ignored)
        replicate(stage, mesh=replicas, ignored_params=ignored)
