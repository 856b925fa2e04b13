"""Each strategy as a short script in plain torch, for the default transformer (experts: the default moe) or a module of a user's
own on two workers: what ``steps.py`` compares with.

A function takes this worker's rank, a plain gloo group and the whole model, and returns the step: inputs and targets (batch, 128)
of this worker's part of the batch in, the mean loss out where this worker has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from own_module import sequential
from torch import Tensor, nn
from torch.distributed._functional_collectives import all_gather_tensor_autograd, all_to_all_single_autograd
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from torch.nn.parallel import DistributedDataParallel

from workbench.plan.resolve import plan
from workbench.runtime.build import build_blocks
from workbench.spec import RunSpec

Step = Callable[[Tensor, Tensor], float | None]
SEQUENCE, HIDDEN, BATCH = 128, 128, 16
CUT = 3  # of the six blocks three are on each of two stages


def data(rank: int, group: dist.ProcessGroup, model: nn.Sequential) -> Step:
    """DistributedDataParallel."""
    return _whole(DistributedDataParallel(model, process_group=group))


def fsdp(rank: int, group: dist.ProcessGroup, model: nn.Sequential) -> Step:
    """FSDP2, a block a unit."""
    mesh = DeviceMesh.from_group(group, "cpu")
    for block in model:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return _whole(model)


def layer(rank: int, group: dist.ProcessGroup, model: nn.Sequential) -> Step:
    """One half of the blocks a worker, joined by send and recv."""
    stage = model[:CUT] if rank == 0 else model[CUT:]
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


def gpipe(rank: int, group: dist.ProcessGroup, model: nn.Sequential) -> Step:
    """torch.distributed.pipelining, GPipe."""
    return _pipeline(rank, group, model, ScheduleGPipe)


def one_f_one_b(rank: int, group: dist.ProcessGroup, model: nn.Sequential) -> Step:
    """torch.distributed.pipelining, 1F1B."""
    return _pipeline(rank, group, model, Schedule1F1B)


def _pipeline(rank: int, group: dist.ProcessGroup, model: nn.Sequential, kind: type[ScheduleGPipe] | type[Schedule1F1B]) -> Step:
    blocks = model[:CUT] if rank == 0 else model[CUT:]
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


def tensor(rank: int, group: dist.ProcessGroup, model: nn.Sequential) -> Step:
    """DTensor: column and row pairs, embedding and head by vocabulary."""
    styles = {
        "embedding.token": RowwiseParallel(input_layouts=Replicate()),
        "head.projection": ColwiseParallel(output_layouts=Replicate()),
    }
    for layer in (name for name, _ in model.named_children() if name.startswith("layer")):
        styles |= {f"{layer}.attention.qkv": ColwiseParallel(), f"{layer}.attention.output": RowwiseParallel()}
        styles |= {f"{layer}.feedforward.up": ColwiseParallel(), f"{layer}.feedforward.down": RowwiseParallel()}
    parallelize_module(model, DeviceMesh.from_group(group, "cpu"), styles)
    return _whole(model)


def context(rank: int, group: dist.ProcessGroup, model: nn.Sequential) -> Step:
    """Quarters 0 and 3 or 1 and 2 of each sequence; all keys and values gathered, what is later than a query masked."""
    quarters = torch.arange(SEQUENCE).chunk(4)
    parts = [torch.cat([quarters[0], quarters[3]]), torch.cat([quarters[1], quarters[2]])]
    positions, order = parts[rank], torch.cat(parts)

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = (all_gather_tensor_autograd(x.contiguous(), 2, group) for x in (k, v))
        return scaled_dot_product_attention(q, keys, values, attn_mask=positions[:, None] >= order)

    for module in model.modules():
        if hasattr(module, "attention_fn"):
            module.attention_fn = attention
        if hasattr(module, "positions"):
            module.positions = positions
    return _whole(DistributedDataParallel(model, process_group=group))


def expert(rank: int, group: dist.ProcessGroup, model: nn.Sequential) -> Step:
    """Half of the experts a worker, tokens sent to theirs and back by all-to-all; the rest is DistributedDataParallel."""

    def dispatch(experts: nn.Module, tokens: Tensor, counts: list[int]) -> Tensor:
        to_each = torch.tensor(counts).view(2, -1)  # (worker, expert that it holds)
        from_each = torch.empty_like(to_each)
        dist.all_to_all_single(from_each, to_each, group=group)
        sent, received = to_each.sum(1).tolist(), from_each.sum(1).tolist()
        arrived = all_to_all_single_autograd(tokens, received, sent, group)
        held = torch.arange(from_each.shape[1]).repeat(2).repeat_interleave(from_each.flatten())
        by_expert = held.argsort(stable=True)
        outputs = experts(arrived[by_expert], from_each.sum(0).tolist())
        return all_to_all_single_autograd(outputs[by_expert.argsort()], sent, received, group)

    own = []
    for name, mixture in model.named_modules():
        if hasattr(mixture, "dispatch"):
            mixture.dispatch = dispatch
            for path, parameter in list(mixture.experts.named_parameters()):
                layer, _, attribute = path.rpartition(".")
                half = nn.Parameter(parameter.detach().chunk(2)[rank].clone())
                setattr(mixture.experts.get_submodule(layer), attribute, half)
                own.append((f"{name}.experts.{path}", half))
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, [name for name, _ in own])
    return _whole(DistributedDataParallel(model, process_group=group), [half for _, half in own])


def _whole(model: nn.Module, summed: Sequence[nn.Parameter] = ()) -> Step:
    """A step whose forward pass is one call; gradients of ``summed`` are sums over both workers and become means."""
    optimizer = torch.optim.AdamW(model.parameters())

    def step(inputs: Tensor, targets: Tensor) -> float:
        optimizer.zero_grad()
        loss = _loss(model(inputs), targets)
        loss.backward()
        for parameter in summed:
            assert parameter.grad is not None
            parameter.grad /= 2
        optimizer.step()
        return loss.item()

    return step


def model(name: str) -> nn.Sequential:
    """A model with the parameters that the workbench begins with, so that both compute the same losses: a default one, or the
    module of ``own_module.py``."""
    if name.endswith(":Net"):
        return sequential()
    planned = plan(RunSpec(model=name))
    return build_blocks(planned, (block.name for block in planned.full_model.blocks), torch.float32)


def _loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(outputs.flatten(0, -2), targets.flatten())
