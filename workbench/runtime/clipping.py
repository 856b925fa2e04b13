"""Gradient clipping by the true global norm: over all gradients of the model, on whichever workers their pieces are."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from workbench.runtime.build import local
from workbench.strategies.worker_model import WorkerModel


def clip_gradients(worker: WorkerModel, max_norm: float) -> None:
    """Scales all gradients by min(1, max_norm / ‖all gradients‖₂) (Pascanu et al. 2013, algorithm 1).

    Each worker adds up the squares of its pieces, a piece that c workers hold counted 1/c on each; one all-reduce of one
    number makes the sum.
    """
    dtype = torch.promote_types(worker.dtype, torch.float32)
    total = torch.zeros(1, dtype=dtype, device=worker.device)
    gradients = [(name, p) for name, p in worker.named_parameters() if p.grad is not None]
    for name, parameter in gradients:
        assert parameter.grad is not None
        total += local(parameter.grad).to(dtype).square().sum() / num_holders(worker, name, parameter)
    if worker.rank_view.mesh.num_workers > 1:
        dist.all_reduce(total)
    scale = (max_norm / (total.sqrt() + 1e-6)).clamp(max=1.0).squeeze()  # torch's clip_grad_norm_ has the same 1e-6
    for _, parameter in gradients:
        local(parameter.grad).mul_(scale.to(worker.dtype))  # type: ignore[arg-type]


def num_holders(worker: WorkerModel, name: str, parameter: torch.Tensor) -> int:
    """Returns the number of workers that hold the same piece of a gradient."""
    if name in worker.num_holders:
        return worker.num_holders[name]
    axes = worker.rank_view.mesh.axes
    holders = worker.rank_view.mesh.num_workers // axes.get("pipeline", 1)
    if isinstance(parameter, DTensor):
        for dim, placement in enumerate(parameter.placements):
            if not placement.is_replicate():  # torch has several kinds of shards
                holders //= parameter.device_mesh.size(dim)
    return holders * worker.num_copies.get(name, 1)
