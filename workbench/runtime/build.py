"""Builds the model of one worker: its blocks, from seeds that do not depend on the split, then applies each strategy in turn."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from workbench.errors import SplitError
from workbench.models.blocks_modules import Blocks
from workbench.models.dropout_modules import DropoutKeys
from workbench.models.mapped_modules import copy_to_memory
from workbench.models.user.stage_modules import UserBlocks, WholeModule
from workbench.plan.mesh import WORLD
from workbench.plan.model_summary import block_of
from workbench.plan.plan import Plan
from workbench.runtime.mixed_precision import ComputeCopies, clear_after_steps, loss_in
from workbench.runtime.recompute import checkpoint_blocks
from workbench.strategies.worker_model import StepRecorder, WorkerModel

if TYPE_CHECKING:
    from collections.abc import Iterable

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}
_SEED_STRIDE = 100_003  # keeps the seeds of blocks of neighbouring run seeds apart


def build_worker(
    plan: Plan,
    rank: int,
    mesh: DeviceMesh | None,
    recorder: StepRecorder,
    device: torch.device,
    dtype: torch.dtype,
    compute_dtype: torch.dtype | None = None,
) -> WorkerModel:
    """Returns the part of the model on worker ``rank``, ready to compute steps.

    Args:
        dtype: dtype of parameters, gradients and optimizer state.
        compute_dtype: dtype of activations; by default that of the spec's mixed precision, or ``dtype``.
    """
    compute_dtype = compute_dtype or (dtype if plan.spec.train.mixed_precision == "none" else DTYPES["bf16"])
    rank_view = plan.rank_view(rank)
    blocks = build_blocks(plan, (b.name for b in rank_view.local_model.blocks), dtype).to(device)
    keys = DropoutKeys(blocks, plan.spec.train.seed, device)
    worker = WorkerModel(rank_view, blocks, plan.model.loss, device, dtype, compute_dtype, recorder, plan.model.decoder, keys)
    worker.main_output = plan.model.main_output
    strategies, train = plan.strategies, plan.spec.train
    for strategy in strategies:
        assert mesh is not None
        strategy.apply(worker, mesh)
    samples = plan.spec.train.global_batch_size // worker.batch_part[1]
    if samples != rank_view.num_samples and "pipeline" in plan.mesh.axes:
        raise SplitError(
            "split",
            f"a worker gets {samples} samples, but its stage expects {rank_view.num_samples}: with stages, only the data axis can"
            " divide the batch",
        )
    blocks.train(worker.trains)  # also modules that a strategy substituted for blocks
    if compute_dtype != dtype:
        worker.loss = loss_in(dtype, worker.loss)
        if not any(strategy.casts_parameters for strategy in strategies):
            # Before strategies finish: each piece of an accumulated step makes its own copies.
            clear_after_steps(worker, ComputeCopies(worker.blocks, compute_dtype))
    if worker.trains:
        has_surrounding = isinstance(worker.blocks, UserBlocks | WholeModule) and not train.compile
        checkpoint_blocks(worker.blocks, train.checkpointing, has_surrounding)
    if train.compile:
        for block in worker.blocks:
            block.compile()
    for strategy in reversed(strategies):
        assert mesh is not None
        strategy.finish(worker, mesh)
    copy_to_memory(worker.blocks)  # what no strategy has sharded
    return worker


def build_blocks(plan: Plan, names: Iterable[str], dtype: torch.dtype) -> Blocks:
    """Returns the named blocks, initialised as in the unsplit model, with tied parameters tied. In inference they are in eval
    mode: dropout does nothing and batch norm uses its running statistics."""
    blocks = plan.model.build_blocks(list(names), functools.partial(_seed_of, plan))
    held = dict(blocks.named_children())
    for source, names in plan.full_model.tied_names.items():
        tied = [name for name in names if block_of(name) in held]
        if tied == [source] or not tied:
            continue
        # A stage without the source starts from the values of the source, with one parameter for all its names.
        origin = held.get(block_of(source)) or plan.model.build_blocks([block_of(source)], functools.partial(_seed_of, plan))[0]
        parameter = origin.get_parameter(source.split(".", 1)[1])
        for name in tied:
            layer, _, attribute = name.rpartition(".")
            setattr(blocks.get_submodule(layer), attribute, parameter)
    return blocks.to(dtype).train(plan.spec.mode == "train")


def _seed_of(plan: Plan, name: str) -> int:
    index = [b.name for b in plan.full_model.blocks].index(name)
    return plan.spec.train.seed * _SEED_STRIDE + index


def make_mesh(plan: Plan, device: str, recorder: StepRecorder) -> DeviceMesh | None:
    """Returns the DeviceMesh of the run and registers its process groups with the recorder. None for one worker."""
    axes = plan.mesh.axes
    if not axes:
        return None
    mesh = init_device_mesh(device, tuple(axes.values()), mesh_dim_names=tuple(axes))
    assert dist.group.WORLD is not None
    recorder.axes[dist.group.WORLD.group_name] = WORLD
    for axis in axes:
        group = mesh[axis].get_group()
        recorder.axes[group.group_name] = axis
        if getattr(group, "coalesces", False):
            # NCCL creates the communicator of a group at its first operation, which blocks until all ranks have called it.
            # Only neighbours call the first batch of sends and recvs of a pipeline.
            dist.all_reduce(torch.zeros(1, device=device), group=group)
    return mesh


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Returns the local part of a tensor, detached."""
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()
