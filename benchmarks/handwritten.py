"""Each strategy as a short script in plain torch, for the default transformer on two workers: what ``steps.py`` compares with.

A function takes this worker's rank and a plain gloo group, and returns the step: inputs and targets (batch, 128) of this
worker's part of the batch in, the mean loss out where this worker has it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from workbench.plan.feasibility import plan
from workbench.runtime.build import build_blocks
from workbench.spec import RunSpec

Step = Callable[[Tensor, Tensor], float | None]
SEQUENCE, HIDDEN, BATCH = 128, 128, 16
CUT = 3  # of the six blocks three are on each of two stages


def data(rank: int, group: dist.ProcessGroup) -> Step:
    """DistributedDataParallel."""
    model = DistributedDataParallel(_model(), process_group=group)
    optimizer = torch.optim.AdamW(model.parameters())

    def step(inputs: Tensor, targets: Tensor) -> float:
        optimizer.zero_grad()
        loss = _loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def fsdp(rank: int, group: dist.ProcessGroup) -> Step:
    """FSDP2, a block a unit."""
    model, mesh = _model(), DeviceMesh.from_group(group, "cpu")
    for block in model:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters())

    def step(inputs: Tensor, targets: Tensor) -> float:
        optimizer.zero_grad()
        loss = _loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def layer(rank: int, group: dist.ProcessGroup) -> Step:
    """One half of the blocks a worker, joined by send and recv."""
    stage = _model()[:CUT] if rank == 0 else _model()[CUT:]
    optimizer = torch.optim.AdamW(stage.parameters())

    def first(inputs: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad()
        hidden = stage(inputs)
        dist.send(hidden.detach(), 1, group)
        gradient = torch.empty_like(hidden)
        dist.recv(gradient, 1, group)
        hidden.backward(gradient)
        optimizer.step()

    def second(inputs: Tensor, targets: Tensor) -> float:
        optimizer.zero_grad()
        hidden = torch.empty(BATCH, SEQUENCE, HIDDEN)
        dist.recv(hidden, 0, group)
        loss = _loss(stage(hidden.requires_grad_()), targets)
        loss.backward()
        dist.send(hidden.grad, 0, group)
        optimizer.step()
        return loss.item()

    return first if rank == 0 else second


def gpipe(rank: int, group: dist.ProcessGroup) -> Step:
    """torch.distributed.pipelining, GPipe."""
    return _pipeline(rank, group, ScheduleGPipe)


def one_f_one_b(rank: int, group: dist.ProcessGroup) -> Step:
    """torch.distributed.pipelining, 1F1B."""
    return _pipeline(rank, group, Schedule1F1B)


def _pipeline(rank: int, group: dist.ProcessGroup, kind: type[ScheduleGPipe] | type[Schedule1F1B]) -> Step:
    blocks = _model()[:CUT] if rank == 0 else _model()[CUT:]
    stage = PipelineStage(blocks, rank, 2, torch.device("cpu"), group=group)
    schedule = kind(stage, n_microbatches=4, loss_fn=_loss)
    optimizer = torch.optim.AdamW(blocks.parameters())

    def step(inputs: Tensor, targets: Tensor) -> float | None:
        optimizer.zero_grad()
        losses: list[Tensor] = []
        schedule.step(inputs) if rank == 0 else schedule.step(target=targets, losses=losses)
        optimizer.step()
        return torch.stack(losses).mean().item() if losses else None

    return step


def tensor(rank: int, group: dist.ProcessGroup) -> Step:
    """DTensor: column and row pairs, embedding and head by vocabulary."""
    model = _model()
    styles = {
        "embedding.token": RowwiseParallel(input_layouts=Replicate()),
        "head.projection": ColwiseParallel(output_layouts=Replicate()),
    }
    for layer in (name for name, _ in model.named_children() if name.startswith("layer")):
        styles |= {f"{layer}.attention.qkv": ColwiseParallel(), f"{layer}.attention.output": RowwiseParallel()}
        styles |= {f"{layer}.feedforward.up": ColwiseParallel(), f"{layer}.feedforward.down": RowwiseParallel()}
    parallelize_module(model, DeviceMesh.from_group(group, "cpu"), styles)
    optimizer = torch.optim.AdamW(model.parameters())

    def step(inputs: Tensor, targets: Tensor) -> float:
        optimizer.zero_grad()
        loss = _loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def _model() -> nn.Sequential:
    """The default transformer with the parameters that the workbench begins with, so that both compute the same losses."""
    planned = plan(RunSpec())
    return build_blocks(planned, (block.name for block in planned.summary.blocks), torch.float32)


def _loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(outputs.flatten(0, -2), targets.flatten())
