"""Emulated links: as slow as the formulas say, shared in turns, and passed while the worker computes."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from workbench.plan.link_model import route
from workbench.plan.mesh import Mesh
from workbench.plan.resolve import plan
from workbench.runtime.link_emulation import emulate_links
from workbench.runtime.tracing.recorder import Recorder
from workbench.spec import RunSpec
from workbench.spec.link import Link
from workbench.testing.cases import training
from workbench.testing.workers import run_in_workers

SLOW = {"latency_s": 5e-3, "bandwidth_bytes_per_s": 5e7}
"""Much slower than any machine that runs the tests, however busy."""
NUM_REPETITIONS = 15


def begin(rank: int, recorder: Recorder, control: Any, link: Link, **axes: int) -> None:
    """The link is emulated from here on, in a mesh of these axes."""
    recorder.emulated_links = emulate_links(link, Mesh(axes or {"data": dist.get_world_size()}), recorder.axes, rank, control)


def elapsed_s(*issue: Any) -> float:
    """Seconds from a common start until all the works that these hand back, issued at once, are over."""
    dist.barrier()
    start = time.perf_counter()
    for work in [work for each in issue for work in each()]:
        work.wait()
    return time.perf_counter() - start


def collective(operation: Any, *args: Any) -> Any:
    """Issues a collective; its work as a list."""
    return lambda: [operation(*args, async_op=True)]


def traced_all_reduces(rank: int, recorder: Recorder, control: Any, sizes: list[int]) -> list[tuple[float, float]]:
    """When this worker entered and left each of several all-reduces of each size, as a run records it."""
    begin(rank, recorder, control, Link(**SLOW))
    for size in sizes:
        tensor = torch.ones(size // 4)
        for _ in range(NUM_REPETITIONS):
            dist.barrier()
            recorder.tracing = True
            dist.all_reduce(tensor)
            recorder.tracing = False
    return [(op.entered, op.ended or 0.0) for op in recorder.operations]


@pytest.mark.clock
@pytest.mark.parametrize("num_workers", [2, 4])
def test_all_reduces_take_what_the_model_says_from_64_kib_up(num_workers: int) -> None:
    sizes = [2**16, 2**18, 2**20, 2**22]
    way = route(Link(**SLOW), Mesh({"data": num_workers}), "data", range(num_workers))
    workers = run_in_workers(num_workers, traced_all_reduces, sizes)
    # From the last one's entry to the last one's end.
    times = [max(left for _, left in each) - max(entered for entered, _ in each) for each in zip(*workers, strict=True)]
    measured = [median(times[i : i + NUM_REPETITIONS]) for i in range(0, len(times), NUM_REPETITIONS)]
    assert measured == pytest.approx([way.duration_s("all_reduce", num_workers, size) for size in sizes], rel=0.05)


def concurrent_operations(rank: int, recorder: Recorder, control: Any) -> dict[str, float]:
    """Seconds of one all-reduce of 1 MB, of two at once, and of messages of 1 MB in both directions at once."""
    a, b = torch.ones(250_000), torch.ones(250_000)

    def both_ways() -> Any:
        return dist.batch_isend_irecv([dist.P2POp(dist.isend, a, 1 - rank), dist.P2POp(dist.irecv, b, 1 - rank)])

    begin(rank, recorder, control, Link(latency_s=0.02, bandwidth_bytes_per_s=1e7))
    one, two = collective(dist.all_reduce, a), collective(dist.all_reduce, b)
    return {"one": elapsed_s(one), "two": elapsed_s(one, two), "both ways": elapsed_s(both_ways)}


@pytest.mark.clock
def test_operations_on_one_link_take_turns_and_both_directions_go_at_once() -> None:
    for times in run_in_workers(2, concurrent_operations):
        one_s = 2 * (0.02 + 0.05)
        assert times == pytest.approx({"one": one_s, "two": 2 * one_s, "both ways": 0.12}, rel=0.1)


def crossing_and_staying(rank: int, recorder: Recorder, control: Any) -> dict[str, float]:
    """Seconds of an all-reduce of 1 MB of two pairs at once, within nodes and across them."""
    within = [dist.new_group([0, 1]), dist.new_group([2, 3])][rank // 2]
    across = [dist.new_group([0, 2]), dist.new_group([1, 3])][rank % 2]
    begin(rank, recorder, control, Link(latency_s=0, bandwidth_bytes_per_s=1e7, workers_per_node=2), data=2, tensor=2)
    tensor = torch.ones(250_000)
    groups = {"within": within, "across": across}
    found = {}
    for name, group in groups.items():
        dist.barrier(group=control)
        start = time.perf_counter()
        dist.all_reduce(tensor, group=group)
        # From when the first of the four began, who may have been alone for a while, to when the last had done.
        times = torch.tensor([-start, time.perf_counter()], dtype=torch.float64)
        dist.all_reduce(times, dist.ReduceOp.MAX, group=control)
        found[name] = float(times.sum())
    return found


@pytest.mark.clock
def test_workers_of_a_node_share_its_link_to_the_others_and_none_is_in_their_own_way() -> None:
    for times in run_in_workers(4, crossing_and_staying):
        assert times["across"] == pytest.approx(2 * 0.1, rel=0.1)
        assert times["within"] < 0.1


def only_one_axis(rank: int, recorder: Recorder, control: Any) -> tuple[float, float]:
    """Seconds of an all-reduce along the slow axis and along the other."""
    tensor = [dist.new_group([0, 1]), dist.new_group([2, 3])][rank // 2]
    data = [dist.new_group([0, 2]), dist.new_group([1, 3])][rank % 2]
    recorder.axes.update({tensor.group_name: "tensor", data.group_name: "data"})
    begin(rank, recorder, control, Link(axes={"tensor": {"latency_s": 0.1}}), data=2, tensor=2)
    value, times = torch.ones(1), []
    for group in (tensor, data):
        dist.barrier(group=control)
        start = time.perf_counter()
        dist.all_reduce(value, group=group)
        times.append(time.perf_counter() - start)
    return times[0], times[1]


@pytest.mark.clock
def test_the_link_of_an_axis_slows_that_axis_alone() -> None:
    for tensor_s, data_s in run_in_workers(4, only_one_axis):
        assert tensor_s == pytest.approx(0.2, rel=0.1)
        assert data_s < 0.1


def every_kind(rank: int, recorder: Recorder, control: Any) -> dict[str, float]:
    """Seconds of an operation of each kind over a link of 100 ms latency, and of a send."""
    begin(rank, recorder, control, Link(latency_s=0.1))
    ones, both = torch.ones(4), torch.ones(8)
    kinds = {
        "all_gather": collective(dist.all_gather_into_tensor, both, ones),
        "reduce_scatter": collective(dist.reduce_scatter_tensor, ones, both),
        "all_to_all": collective(dist.all_to_all_single, torch.empty(4), ones),
        "broadcast": collective(dist.broadcast, ones, 0),
        "barrier": collective(dist.barrier),
    }
    times = {kind: elapsed_s(operation) for kind, operation in kinds.items()}
    dist.barrier()
    start = time.perf_counter()
    dist.send(ones, 1) if rank == 0 else dist.recv(ones, 0)
    return {**times, "send": time.perf_counter() - start}


@pytest.mark.clock
def test_every_kind_of_operation_is_delayed_and_a_sender_is_free_once_the_last_byte_has_left() -> None:
    first, second = run_in_workers(2, every_kind)
    assert second == pytest.approx(dict.fromkeys(second, 0.1), rel=0.1)
    assert first.pop("send") < 0.05
    assert first == pytest.approx(dict.fromkeys(first, 0.1), rel=0.1)


def test_no_operation_is_over_before_its_link_lets_it_be() -> None:
    """What is emulated can take longer on a busy machine, and never less."""
    one_s = 2 * (0.02 + 0.05)
    concurrent = longest(run_in_workers(2, concurrent_operations))
    assert concurrent["one"] >= one_s
    assert concurrent["two"] >= 2 * one_s, "one after the other"
    assert concurrent["both ways"] >= 0.12
    assert longest(run_in_workers(4, crossing_and_staying))["across"] >= 2 * 0.1, "two pairs share the node's link"
    assert max(tensor_s for tensor_s, _ in run_in_workers(4, only_one_axis)) >= 0.2
    every = longest(run_in_workers(2, every_kind))
    del every["send"]  # counts from the sender's beginning, who is free at once
    assert min(every.values()) >= 0.1


def longest(workers: list[dict[str, float]]) -> dict[str, float]:
    """Of each operation the time of the worker that began first."""
    return {name: max(times[name] for times in workers) for name in workers[0]}


def completion(rank: int, recorder: Recorder, control: Any) -> tuple[bool, bool, float]:
    """Whether an all-reduce is completed in the middle and after the time of its link, and how long it is then waited for
    where it was computed meanwhile."""
    begin(rank, recorder, control, Link(latency_s=0.1))
    dist.barrier()
    work = dist.all_reduce(torch.ones(1), async_op=True)
    time.sleep(0.1)
    early = work.is_completed()
    time.sleep(0.15)
    late, start = work.is_completed(), time.perf_counter()
    work.wait()
    return early, late, time.perf_counter() - start


@pytest.mark.clock
def test_an_operation_passes_while_the_worker_computes() -> None:
    for early, late, waited_s in run_in_workers(2, completion):
        assert (early, late) == (False, True)
        assert waited_s < 0.02


class Thinks(torch.autograd.Function):
    """Passes a value on, and takes its time with the gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        time.sleep(0.1)
        return gradient


class Layer(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(Thinks.apply(x))


def ddp_step(rank: int, recorder: Recorder, control: Any) -> tuple[float, list[float], int]:
    """Seconds of a backward pass of DDP whose four layers take 100 ms each and whose buckets take 160 ms; its gradients; and
    how many buckets there were."""
    torch.manual_seed(0)
    layers = nn.Sequential(*(Layer(8, 8) for _ in range(4)))
    model = nn.parallel.DistributedDataParallel(layers, bucket_cap_mb=1e-5)
    x = torch.full((1, 8), float(rank + 1))
    model(x).sum().backward()  # DDP makes its buckets anew after the first
    model.zero_grad()
    begin(rank, recorder, control, Link(latency_s=0.04))
    before = recorder.num_operations
    dist.barrier(group=control)
    loss, start = model(x).sum(), time.perf_counter()
    loss.backward()
    took_s = time.perf_counter() - start
    return took_s, [float(p.grad.norm()) for p in model.parameters()], recorder.num_operations - before


def test_ddp_gets_the_right_gradients_of_buckets_that_are_under_way() -> None:
    (_, first, buckets), (_, second, _) = run_in_workers(2, ddp_step)
    assert buckets > 1
    assert first == second
    torch.manual_seed(0)
    layers = nn.Sequential(*(Layer(8, 8) for _ in range(4)))
    (layers(torch.full((1, 8), 1.0)).sum() + layers(torch.full((1, 8), 2.0)).sum()).div(2).backward()
    assert first == pytest.approx([float(p.grad.norm()) for p in layers.parameters()])


@pytest.mark.clock
def test_ddp_goes_on_with_backward_while_its_buckets_are_under_way() -> None:
    (first_s, _, buckets), (second_s, *_) = run_in_workers(2, ddp_step)
    computing_s, moving_s = 4 * 0.1, buckets * 2 * 0.04
    assert moving_s >= 0.3, "there is something to hide"
    assert max(first_s, second_s) - computing_s < moving_s / 2


def torn_future(rank: int, recorder: Recorder, control: Any) -> str:
    """What a delayed future says when its operation failed."""
    begin(rank, recorder, control, Link(latency_s=0.01))
    future: Any = torch.futures.Future()
    late = recorder.emulated_links.timer.delay(future, time.perf_counter)
    future.set_exception(ValueError("torn"))
    try:
        late.wait()
    except Exception as error:  # noqa: BLE001
        return str(error)
    return ""


def test_the_failure_of_an_operation_reaches_those_who_wait_for_its_delayed_future() -> None:
    assert "torn" in run_in_workers(2, torn_future)[0]


@pytest.mark.clock
def test_a_slow_tensor_axis_grows_exposed_communication_by_the_modelled_amount() -> None:
    model = {"name": "transformer", "num_layers": 2, "hidden_dim": 32, "num_heads": 4}
    spec = {"model": model, "split": {"tensor": 2}, "train": {"num_steps": 1, "global_batch_size": 4}}
    slow = {**spec, "link": {"axes": {"tensor": {"latency_s": 0.02, "bandwidth_bytes_per_s": 1e7}}}}
    own, slowed = ([worker["parts"] for worker in run_in_workers(2, training, s)] for s in (spec, slow))
    planned = plan(RunSpec(**slow))
    way = route(planned.spec.link, planned.mesh, "tensor", (0, 1))
    for rank in range(2):
        wanted = sum(t.count * way.duration_s(t.operation, 2, t.payload_bytes) for t in planned.expected_communication_of(rank))
        parts = ("exposed_communication_s", "idle_s", "compute_s")
        grown = {part: slowed[rank][part] - own[rank][part] for part in parts}
        assert grown["exposed_communication_s"] == pytest.approx(wanted, rel=0.1), grown
