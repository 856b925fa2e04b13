"""Local tensors: each worker's parts of the tensors of the unsplit model, gathered on rank 0 for comparison."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from workbench.runtime.build import local
from workbench.strategies.worker_model import StepResult, WorkerModel
from workbench.torch_private.dtensor import local_shape_and_offset


@dataclass(frozen=True)
class LocalTensor:
    """A worker's part of a tensor of the unsplit model."""

    name: str
    offset: tuple[int, ...]
    values: Tensor

    @property
    def slices(self) -> tuple[slice, ...]:
        """Index of this part in the full tensor."""
        return tuple(slice(o, o + s) for o, s in zip(self.offset, self.values.shape, strict=True))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles plain bytes. torch pickles each tensor as a file of its own, which took half the time of a small check."""
        values = self.values.detach().contiguous()
        data = values.reshape(-1).view(torch.uint8).numpy()
        return _unpickled, (self.name, self.offset, data, values.dtype, tuple(values.shape))


def _unpickled(name: str, offset: tuple[int, ...], data: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> LocalTensor:
    return LocalTensor(name, offset, torch.from_numpy(data).view(dtype).reshape(shape))


def local_gradients(worker: WorkerModel) -> list[LocalTensor]:
    """Returns this worker's gradients; a parameter may have none."""
    named = [(name, p.grad) for name, p in worker.named_parameters() if p.grad is not None]
    return [LocalTensor(f"gradient of {name}", offset(grad), local(grad).clone()) for name, grad in named]


def local_parameters(named: Iterable[tuple[str, nn.Parameter]]) -> list[LocalTensor]:
    """Returns copies of a worker's parameters, given by name."""
    return [LocalTensor(f"parameter {name}", offset(parameter), local(parameter).clone()) for name, parameter in named]


def local_results(worker: WorkerModel, result: StepResult) -> list[LocalTensor]:
    """Returns the outputs and tokens at their offsets in the full tensors, and this worker's part of the mean loss."""
    index, count = worker.batch_part
    first_position = 0
    tensors = []
    if result.outputs is not None:
        offset = [0] * result.outputs.dim()
        offset[0] = index * len(result.outputs)
        offset[-1] += worker.classes_part[0] * result.outputs.shape[-1]
        tensors.append(LocalTensor("outputs", tuple(offset), result.outputs))
    if result.tokens is not None:
        tensors.append(LocalTensor("tokens", (index * len(result.tokens), 0), result.tokens.double()))
    if (runs := worker.sequence_part) is not None:
        assert worker.full_model.sequence_length is not None
        first_position, count = runs[0].start, count * worker.full_model.sequence_length // sum(map(len, runs))
        tensors = [
            LocalTensor(whole.name, (whole.offset[0], run.start, *whole.offset[2:]), values)
            for whole in tensors
            for run, values in zip(runs, whole.values.split([len(run) for run in runs], dim=1), strict=True)
        ]
    if result.loss is not None:
        tensors.append(LocalTensor("loss", (index, first_position), result.loss.reshape(1) / count))
    return tensors


def in_order(tensors: Iterable[LocalTensor], stored_order: Mapping[str, tuple[int, tuple[range, ...]]]) -> list[LocalTensor]:
    """Returns parts of gradients and parameters at their offsets in the unsplit model; those that are stored in another order as
    several parts."""
    ordered = []
    for part in tensors:
        name = part.name.removeprefix("gradient of ").removeprefix("parameter ")
        dim, ranges = stored_order.get(name, (0, ()))
        if not ranges:
            ordered.append(part)
        begin, position = part.offset[dim] if ranges else 0, 0
        for held in ranges:
            first, last = max(begin, position), min(begin + part.values.shape[dim], position + len(held))
            if first < last:
                place = [*part.offset[:dim], held.start + first - position, *part.offset[dim + 1 :]]
                ordered.append(LocalTensor(part.name, tuple(place), part.values.narrow(dim, first - begin, last - first)))
            position += len(held)
    return ordered


def offset(tensor: Tensor) -> tuple[int, ...]:
    """Returns the offset of this worker's part in the full tensor."""
    if isinstance(tensor, DTensor):
        return tuple(local_shape_and_offset(tensor.shape, tensor.device_mesh, tensor.placements)[1])
    return (0,) * tensor.dim()


def gather(tensors: list[LocalTensor], control: Any, num_workers: int, rank: int) -> list[LocalTensor]:
    """Returns the local tensors of all workers on rank 0, and an empty list on other ranks."""
    tensors = [LocalTensor(t.name, t.offset, t.values.cpu()) for t in tensors]
    if num_workers == 1:
        return tensors
    gathered: list[Any] | None = [None] * num_workers if rank == 0 else None
    dist.gather_object(tensors, gathered, dst=0, group=control)
    return [tensor for part in gathered or [] for tensor in part]
