"""Gradients of replicated parameters that each worker applies to a part of the sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from workbench.strategies.worker_model import StepResult

if TYPE_CHECKING:
    from workbench.strategies.worker_model import WorkerModel


def sum_gradients(worker: WorkerModel, names: set[str], mesh: DeviceMesh) -> None:
    """Sums the gradients of these parameters over the workers, in one all-reduce after all pieces."""
    compute = worker.compute

    def step(inputs: Tensor, targets: Tensor) -> StepResult:
        result = compute(inputs, targets)
        with worker.span("backward", name="gradients of the parts of the sequence"):
            gradients = [_local(p.grad) for name, p in worker.named_parameters() if name in names and p.grad is not None]
            total = torch.cat([gradient.flatten() for gradient in gradients])
            dist.all_reduce(total, group=mesh.get_group())
            for gradient, part in zip(gradients, total.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(part.view_as(gradient))
        return result

    worker.compute = step


def set_local_positions(module: Any, length: int, mesh: DeviceMesh) -> None:
    """Sets ``module.positions`` to those of this worker's part of a sequence of ``length``."""
    positions = module.positions
    if positions is None:
        positions = torch.arange(length, device=mesh.device_type)
    module.positions = positions.chunk(mesh.size())[mesh.get_local_rank()]


def _local(tensor: Tensor) -> Tensor:
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()
