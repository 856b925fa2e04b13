"""What the workbench relies on in ``torch.distributed`` and in gloo's scopes of the profiler."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from tests.torch_private.entries import check, first_parameters
from workbench.testing.workers import run_in_workers


def in_one_worker(function: Callable[..., Any]) -> Any:
    return run_in_workers(1, function)[0]


@check("distributed.ALL_GATHER_INTO_TENSOR", "distributed.REDUCE_SCATTER_TENSOR")
def _(name: Any) -> None:
    assert callable(getattr(dist.ProcessGroup, name)) and callable(getattr(dist.ProcessGroupGloo, name))


@check("distributed.ProcessGroup")
def _(group: Any) -> None:
    for name in ("_set_group_name", "_start_coalescing", "_end_coalescing"):
        assert callable(getattr(dist.ProcessGroup, name))
    assert issubclass(group, dist.ProcessGroup)


@check("distributed.Backend", "distributed.start_coalescing", "distributed.end_coalescing")
def _(entry: Any) -> None:
    for name in ("_start_coalescing", "_end_coalescing"):
        assert callable(getattr(dist.Backend, name, None) or getattr(dist.ProcessGroupGloo, name))


def batch(rank: int, recorder: Any, control: Any) -> tuple[list[float], list[str]]:
    """A send to oneself through the manager on a group that notes what torch calls."""
    from workbench.torch_private.distributed import coalescing_manager

    calls: list[str] = []

    class Group:
        def _start_coalescing(self, device: torch.device) -> None:
            calls.append(f"start on {device}")

        def _end_coalescing(self, device: torch.device) -> str:
            calls.append(f"end on {device}")
            return "work"

    with coalescing_manager(Group(), torch.device("cpu"), async_ops=True) as manager:
        calls.append("operations")
    return manager.works, calls


@check("distributed.coalescing_manager")
def _(manager: Any) -> None:
    first_parameters(manager, "group", "device", "async_ops")
    assert in_one_worker(batch) == (["work"], ["start on cpu", "operations", "end on cpu"])


@check("distributed.check_p2p_batch")
def _(check_p2p_batch: Any) -> None:
    with pytest.raises(ValueError, match="P2POp"):
        check_p2p_batch([1])


@check("distributed.gloo_options")
def _(gloo_options: Any) -> None:
    options = gloo_options([dist.ProcessGroupGloo.create_device(hostname="127.0.0.1")], timedelta(seconds=7))
    assert options._timeout == timedelta(seconds=7) and len(options._devices) == 1
    group = dist.ProcessGroupGloo(dist.HashStore(), 0, 1, options)  # type: ignore[attr-defined]  # torch's stub lacks it
    group.allreduce([torch.ones(1)]).wait()  # type: ignore[attr-defined]  # torch's stub lacks it


@check("distributed.nccl_options")
def _(nccl_options: Any) -> None:
    if dist.is_nccl_available():
        assert nccl_options(timedelta(seconds=7))._timeout == timedelta(seconds=7)


def async_tensor(rank: int, recorder: Any, control: Any) -> list[Any]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Partial, Replicate

    from workbench.torch_private.distributed import AsyncCollectiveTensor, all_to_all_single_autograd, wait_tensor

    mesh = init_device_mesh("cpu", (2,))
    partial = DTensor.from_local(torch.ones(2), mesh, [Partial()])
    tensor: Any = partial.redistribute(placements=[Replicate()], async_op=True).to_local()
    x = torch.ones(2, requires_grad=True)
    exchanged = wait_tensor(all_to_all_single_autograd((rank + 1) * x, [1, 1], [1, 1], mesh.get_group()))
    exchanged.sum().backward()
    assert x.grad is not None
    is_async = isinstance(tensor, AsyncCollectiveTensor)
    return [is_async, tensor.wait().tolist() if is_async else None, exchanged.tolist(), x.grad.tolist()]


@check("distributed.AsyncCollectiveTensor")
def _(kind: Any) -> None:
    assert callable(kind.wait)
    assert [result[:2] for result in run_in_workers(2, async_tensor)] == [[True, [2, 2]]] * 2


@check("distributed.all_to_all_single_autograd", "distributed.wait_tensor")
def _(entry: Any) -> None:
    assert [result[2:] for result in run_in_workers(2, async_tensor)] == [[[1, 2], [1, 1]], [[1, 2], [2, 2]]]


def meshes(rank: int, recorder: Any, control: Any) -> list[Any]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard

    from workbench.torch_private.distributed import flattened, unflattened
    from workbench.torch_private.dtensor import local_shape_and_offset

    mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("a", "b"))
    together = flattened(mesh["a", "b"], "a+b")
    apart = unflattened(mesh["a"], (1, 2), ("a_outer", "a_inner"))
    assert together.get_group().size() == 2 and apart["a_inner"].get_group().size() == 2
    shape, offset = local_shape_and_offset((3, 2), mesh["a"], [Shard(0)])
    return [together.mesh_dim_names, apart.mesh_dim_names, tuple(apart.mesh.shape), tuple(shape), tuple(offset)]


@check("distributed.flattened", "distributed.unflattened", "dtensor.local_shape_and_offset")
def _(entry: Any) -> None:
    first, second = run_in_workers(2, meshes)
    assert first[:3] == second[:3] == [("a+b",), ("a_outer", "a_inner"), (1, 2)]
    assert (first[3:], second[3:]) == ([(2, 2), (0, 0)], [(1, 2), (2, 0)])


def ignored_by_ddp(rank: int, recorder: Any, control: Any) -> list[bool]:
    from torch.nn.parallel import DistributedDataParallel

    from workbench.torch_private.distributed import leave_out_of_ddp

    layer = nn.Linear(2, 2)
    module = nn.Sequential(layer)
    leave_out_of_ddp(module, {"0.bias"})
    replica = DistributedDataParallel(module)
    ((1.0 + rank) * replica(torch.ones(1, 2)).sum()).backward()
    return [layer.weight.grad.tolist(), layer.bias.grad.tolist()]


@check("distributed.leave_out_of_ddp")
def _(entry: Any) -> None:
    gradients = run_in_workers(2, ignored_by_ddp)
    assert [weight for weight, _ in gradients] == [[[1.5, 1.5]] * 2] * 2, "the mean"
    assert [bias for _, bias in gradients] == [[1.0, 1.0], [2.0, 2.0]], "left out"


def divided_optimizer(rank: int, recorder: Any, control: Any) -> list[Any]:
    from workbench.torch_private.zero import ZeroRedundancyOptimizer

    calls: list[str] = []

    class Divided(ZeroRedundancyOptimizer):
        def divide_parameters(self) -> list[list[dict[str, Any]]]:
            calls.append("divide")
            return [[{**group} for group in self.param_groups]]

        def broadcast_from(self, rank: int) -> list[Any]:
            calls.append(f"broadcast {rank}")
            return []

    parameter = nn.Parameter(torch.ones(2))
    optimizer = Divided([parameter], torch.optim.SGD, lr=1.0)
    parameter.grad = torch.ones(2)
    optimizer.step()
    return [calls, parameter.tolist()]


@check("zero.ZeroRedundancyOptimizer")
def _(optimizer: Any) -> None:
    calls, parameter = in_one_worker(divided_optimizer)
    assert set(calls) == {"divide", "broadcast 0"} and parameter == [0, 0], (calls, parameter)


def replicated(rank: int, recorder: Any, control: Any) -> list[Any]:
    from torch.distributed.device_mesh import init_device_mesh

    from workbench.torch_private.fsdp import replicate

    mesh = init_device_mesh("cpu", (2,))
    layers = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    for parameter in layers.parameters():
        nn.init.ones_(parameter)
    replicate([layers[0]], mesh=mesh, ignored_params={layers[1].weight})
    replicate(layers, mesh=mesh, ignored_params={layers[1].weight})
    layers(torch.full((1, 2), 1.0 + rank)).sum().backward()
    gradients = [parameter.grad for parameter in layers.parameters()]
    return [getattr(gradient, "full_tensor", lambda g=gradient: g)().tolist() for gradient in gradients]


@check("fsdp.replicate")
def _(replicate: Any) -> None:
    first, second = run_in_workers(2, replicated)
    assert first[0] == second[0] == [[3, 3], [3, 3]], "the mean over two workers"
    assert (first[1], second[1]) == ([[2, 2], [2, 2]], [[4, 4], [4, 4]]), "each worker's own"


def sharded(rank: int, recorder: Any, control: Any) -> bool:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from workbench.torch_private.dispatch import TorchDispatchMode
    from workbench.torch_private.fsdp import CHUNK_CAT

    class Seen(TorchDispatchMode):
        gradients: list[Any] = []

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is CHUNK_CAT:
                self.gradients += args[0]
            return function(*args, **kwargs or {})

    layer = nn.Linear(2, 4)
    fully_shard(layer, mesh=init_device_mesh("cpu", (2,)))
    loss = layer(torch.ones(1, 2)).sum()
    with Seen() as seen:
        loss.backward()
    return [tuple(gradient.shape) for gradient in seen.gradients] == [(4, 2), (4,)]


@check("fsdp.CHUNK_CAT")
def _(operator: Any) -> None:
    assert run_in_workers(2, sharded) == [True, True], "FSDP2 does not hand it the whole gradients first"


def scheduled(rank: int, recorder: Any, control: Any) -> list[Any]:
    from workbench.torch_private.pipelining import PipelineStage, order_of, schedule_of_actions

    received: list[int] = []

    class Stage(PipelineStage):
        def received_activations(self, microbatch: int) -> tuple[torch.Tensor, ...]:
            received.append(microbatch)
            return super().received_activations(microbatch)

    layer = nn.Linear(1, 1, bias=False)
    nn.init.ones_(layer.weight)
    stage = Stage(
        layer,
        rank,
        2,
        torch.device("cpu"),
        input_args=torch.empty(1, 1, requires_grad=rank > 0),
        output_args=layer(torch.empty(1, 1)),
    )
    actions = {0: ["0F0", "0F1", "0B0", "0B1"], 1: ["1F0", "1B0", "1F1", "1B1"]}
    schedule = schedule_of_actions([stage], 2, lambda outputs, targets: (outputs - targets).sum(), actions)
    x, losses = torch.tensor([[1.0], [2.0]]), []
    schedule.step(*([x] if rank == 0 else []), **({} if rank == 0 else {"target": 0 * x, "losses": losses}))
    order = [[str(action) for action in order_of(schedule)[worker]] for worker in range(2)]
    return [received, [loss.item() for loss in losses], order == [actions[0], actions[1]]]


@check("pipelining.PipelineStage", "pipelining.schedule_of_actions")
def _(entry: Any) -> None:
    (_, _, is_first_in_order), (received, losses, is_second_in_order) = run_in_workers(2, scheduled)
    assert received == [0, 1] and losses == [1, 2] and is_first_in_order and is_second_in_order


@check("pipelining.order_of")
def _(order_of: Any) -> None:
    from types import SimpleNamespace

    from torch.distributed.pipelining import Schedule1F1B, ScheduleGPipe

    stage: Any = SimpleNamespace(num_stages=2, group_size=2, group_rank=0, submod=nn.Module(), stage_index=0, is_last=False)
    for kind in (ScheduleGPipe, Schedule1F1B):
        order = order_of(kind(stage, 2, loss_fn=lambda outputs, targets: None))
        actions = [(action.computation_type.value, action.microbatch_index) for action in order[0] if action is not None]
        assert {("F", 0), ("F", 1), ("B", 0), ("B", 1)} <= set(actions), (kind.__name__, actions)


def gloo_scopes(rank: int, recorder: Any, control: Any) -> list[Any]:
    from workbench.torch_private.profiler import start_profiling_user_scopes, stop_profiling

    start_profiling_user_scopes()
    dist.all_reduce(torch.ones(6) + 1)
    return [(e.name(), e.shapes(), e.start_ns() <= e.end_ns()) for e in stop_profiling() if not e.name().startswith("[")]


@check("profiler.start_profiling_user_scopes", "profiler.stop_profiling")
def _(entry: Any) -> None:
    for spans in run_in_workers(2, gloo_scopes):
        assert ("gloo:all_reduce", [[6]], True) in spans, spans
        assert not any(name.startswith("aten::") for name, _, _ in spans), "operations of torch are recorded too"
