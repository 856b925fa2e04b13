"""Replicas: workers along the data and context axes hold equal parameters and average their gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from workbench.errors import SplitError
from workbench.plan.communication import Transfer
from workbench.plan.mesh import REPLICA_AXES
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


def uses_ddp(axes: Iterable[str]) -> bool:
    """Whether a run over these axes averages with DDP: it takes neither cut parameters nor a pipeline's microbatches."""
    return set(axes) <= set(REPLICA_AXES)


def averages_with_ddp(spec: RunSpec) -> bool:
    """Whether this run, where nothing is sharded, averages with DDP."""
    return uses_ddp(STRATEGIES.get(name).axis for name, _ in spec.split.items())


def check_replicas(model: ModelSummary, spec: RunSpec, field: str, is_sharded: bool = False) -> None:
    """Raises:
    SplitError: torch's wrapper does not take a parameter without dims: FSDP2 and its replicating form shard rows.
    """
    scalar = next((p.name for p in model.distinct_parameters if not p.shape), None)
    if scalar is not None and (is_sharded or (spec.mode == "train" and not averages_with_ddp(spec))):
        others = [name for name, _ in spec.split.items() if STRATEGIES.get(name).axis not in REPLICA_AXES]
        what = "FSDP" if is_sharded else f"torch's replicate, which data uses with {others[0]},"
        raise SplitError(
            field,
            f"{what} does not support scalar parameters such as {scalar} of {model.name}; use a parameter of shape (1,),"
            ' or data alone with shard = "none" or "optimizer"',
        )


def check_all_trained(model: ModelSummary, spec: RunSpec, field: str) -> None:
    """Raises:
    SplitError: backward passes end before they reach every layer, of whose communication there is no formula.
    """
    apart = next((p.name for p in model.parameters if not p.has_gradient), None)
    if apart is not None and spec.mode == "train":
        raise SplitError(
            field,
            f"does not support frozen or unused parameters, such as {apart} of {model.name}; use data, layer or pipeline",
        )


def averaged_by_ddp(rank_view: RankView) -> tuple[ParameterSummary, ...]:
    """The parameters whose gradients a run averages; DDP averages zeros for unused ones (``find_unused_parameters``)."""
    unused = rank_view.local_model.unused_parameters if uses_ddp(rank_view.mesh.axes) else ()
    return rank_view.local_model.averaged_parameters + tuple(p for p in unused if p.is_replicated)


def expected_search(rank_view: RankView) -> list[Transfer]:
    """What DDP sends to know which parameters a step used, an int32 for each that is trained, where it looks for them."""
    count = sum(p.requires_grad and p.is_replicated for p in rank_view.local_model.distinct_parameters)
    axis = "+".join(rank_view.mesh.replica_axes)
    return [Transfer("all_reduce", axis, "backward", 1, count * USED_BYTES, rank_view.mesh.num_copies)]


def averaging_advice(pieces: str = "") -> str:
    """What to try where averaging gradients limits a run; ``pieces`` adds what makes the averages fewer or smaller."""
    return f"Try a larger batch per gradient synchronization{pieces} or fewer workers along data."


def expected_average(rank_view: RankView) -> list[Transfer]:
    """All gradients once: the bytes of every parameter averaged, in as many buckets as torch makes (Li et al. 2020)."""
    if not rank_view.trains:
        return []
    axis, gradients = (
        "+".join(rank_view.mesh.replica_axes),
        sum(p.numel for p in rank_view.local_model.averaged_parameters) * rank_view.element_bytes,
    )
    return [Transfer("all_reduce", axis, "backward", 1, gradients, rank_view.mesh.num_copies)]


def replicas_mesh(mesh: DeviceMesh) -> DeviceMesh:
    """The workers that hold the same parameters as this one, as a mesh of one dim: ``data``, ``context`` or, of both
    flattened, ``data+context``."""
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
    """Gradients become the mean over all replicas while backward goes on; but for those of parameters that not all hold."""
    from torch.nn.parallel import DistributedDataParallel

    from workbench.torch_private.distributed import leave_out_of_ddp

    if not worker.trains:
        return
    replicas = replicas_mesh(mesh)
    assert mesh.mesh_dim_names is not None
    worker.axes[replicas.get_group().group_name] = "+".join(replicas.mesh_dim_names or ())
    if not any(p.requires_grad for p in worker.blocks.parameters()):
        return  # torch's wrappers refuse a module that has nothing to average
    apart = {p.name for p in worker.rank_view.local_model.parameters if not p.is_replicated}
    if not uses_ddp(mesh.mesh_dim_names):
        _replicate_blocks(worker, replicas, apart)
        return
    leave_out_of_ddp(worker.module, apart)
    worker.module = DistributedDataParallel(
        worker.module,
        process_group=replicas.get_group(),
        bucket_cap_mb=bucket_size_mib,
        gradient_as_bucket_view=True,  # the buckets are the gradients: no second copy
        find_unused_parameters=find_unused_parameters,
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
    from workbench.strategies.data.gradient_accumulation import quieten_views
    from workbench.torch_private.fsdp import replicate

    quieten_views()
    for stage in worker.stages:
        blocks, ignored = dict(stage.named_children()), {p for name, p in stage.named_parameters() if name in apart}
        for unit in units(list(blocks), worker.summary):
            replicate([blocks[name] for name in unit], mesh=replicas, ignored_params=ignored)
        replicate(stage, mesh=replicas, ignored_params=ignored)
