"""Timed steps of each strategy against the same split hand-written in plain torch, alternating in one run.

``python benchmarks/steps.py [ROUNDS [CASE …]]`` starts two workers a strategy. Each builds the workbench's share (recorded
process group, light recorder) and the hand-written one twice, on plain gloo groups, and every round takes one step of each, in
an order that changes from round to round. A step counts as long as it takes the slower worker. Printed are medians over the
rounds of the ratios of two steps of the same round, with 95 % bootstrap intervals; the second copy against the first is the
noise. The ratio of processor time, summed over both workers, sees what a step computes but not what it waits for; other
processes disturb it less.
"""

from __future__ import annotations

import itertools
import math
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

ROUNDS, WARMUP, RESAMPLES = 200, 5, 2000
NUM_WORKERS = 2
LIMIT = 1.02
Array = np.ndarray[Any, np.dtype[np.float64]]
OWN = {"name": f"{Path(__file__).with_name('own_module.py')}:Net", "cut_at": ["layers.1"]}
"""A user's own module, cut where the hand-written scripts cut it."""
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "data": ("data", {"data": 2}, {"name": "transformer"}),
    "data, sharded": ("fsdp", {"fsdp": 2}, {"name": "transformer"}),
    "layer": ("layer", {"layer": 2}, {"name": "transformer"}),
    "pipeline gpipe": ("gpipe", {"pipeline": {"size": 2, "schedule": "gpipe"}}, {"name": "transformer"}),
    "pipeline 1f1b": ("one_f_one_b", {"pipeline": {"size": 2, "schedule": "1f1b"}}, {"name": "transformer"}),
    "tensor": ("tensor", {"tensor": 2}, {"name": "transformer"}),
    "context": ("context", {"context": {"size": 2, "attention": "all_gather"}}, {"name": "transformer"}),
    "expert": ("expert", {"expert": 2}, {"name": "moe"}),
    "own, data": ("data", {"data": 2}, OWN),
    "own, layer": ("layer", {"layer": 2}, OWN),
    "own, 1f1b": ("one_f_one_b", {"pipeline": {"size": 2, "schedule": "1f1b"}}, OWN),
}
"""Name → function of ``handwritten.py``, the workbench's split, and the model."""


def work(
    rank: int, rendezvous: str, rounds: int, handwritten_name: str, split: dict[str, Any], model: dict[str, Any], pipe: Any
) -> None:
    """In a worker: sends what each step took in seconds, (2, rounds, 3): by the clock and of processor time; the workbench's,
    the hand-written one's and its second copy's."""
    import handwritten
    import torch
    import torch.distributed as dist

    from workbench.plan.resolve import plan
    from workbench.runtime.batches import Batches
    from workbench.runtime.build import build_worker, make_mesh
    from workbench.runtime.optimizer import make_optimizer
    from workbench.runtime.step_loop import take_step
    from workbench.runtime.tracing.process_group import control_group, register_backend
    from workbench.runtime.tracing.recorder import Recorder
    from workbench.spec import RunSpec

    torch.set_num_threads(1)
    planned, recorder, device, timeout = (
        plan(RunSpec(model=model, split=split, dataset="text")),
        Recorder(),
        torch.device("cpu"),
        timedelta(minutes=5),
    )
    store = dist.FileStore(rendezvous, NUM_WORKERS)
    dist.init_process_group(register_backend(recorder, "cpu"), store=store, rank=rank, world_size=NUM_WORKERS, timeout=timeout)
    worker = build_worker(planned, rank, make_mesh(planned, "cpu", recorder), recorder, device, torch.float32)
    optimizer = make_optimizer(worker, planned.spec.train)

    def ours(inputs: torch.Tensor, targets: torch.Tensor) -> float | None:
        loss = take_step(worker, optimizer, inputs, targets).loss
        return None if loss is None else float(loss)

    build = getattr(handwritten, handwritten_name)
    steps: list[Callable[..., float | None]] = [
        ours,
        *(build(rank, dist.new_group(backend="gloo"), handwritten.model(model["name"])) for _ in range(2)),
    ]
    control, batches = control_group(timeout), Batches(planned, device, torch.float32)
    took, losses = np.empty((2, WARMUP + rounds, 3)), np.full((WARMUP + rounds, 3), np.nan)
    orders = list(itertools.permutations(range(3)))
    for turn in range(WARMUP + rounds):
        recorder.begin_step(turn, tracing=False)
        inputs, targets = batches.worker_batch(turn, worker)
        for which in orders[turn % len(orders)]:
            dist.barrier(group=control)
            before = recorder.num_operations
            start = np.array([time.perf_counter(), time.process_time()])
            loss = steps[which](inputs, targets)
            took[:, turn, which] = np.array([time.perf_counter(), time.process_time()]) - start
            losses[turn, which] = math.nan if loss is None else loss
            assert (recorder.num_operations > before) == (which == 0), "only the workbench's step goes through its process group"
    if not np.isnan(losses[0, 0]):
        np.testing.assert_allclose(
            losses[:WARMUP, 0], losses[:WARMUP, 1], rtol=1e-4, err_msg="the two do not train the same model"
        )
    pipe.send(took[:, WARMUP:])
    dist.barrier(group=control)
    os._exit(0)  # gloo's teardown at exit aborts now and then


def measure(case: str, rounds: int) -> tuple[Array, Array]:
    """Seconds, (rounds, 3) each: durations of the slower worker, and processor time of both."""
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe(duplex=False) for _ in range(NUM_WORKERS)]
    with tempfile.TemporaryDirectory() as directory:
        processes = [
            context.Process(target=work, args=(rank, f"{directory}/rendezvous", rounds, *CASES[case], pipe))
            for rank, (_, pipe) in enumerate(pipes)
        ]
        for process, (_, sender) in zip(processes, pipes, strict=True):
            process.start()
            sender.close()  # so that recv raises EOFError when the worker dies
        try:
            took = np.stack([receiver.recv() for receiver, _ in pipes])  # (workers, 2, rounds, 3)
        finally:
            for process in processes:
                process.join(5)
                process.kill()
    return took[:, 0].max(axis=0), took[:, 1].sum(axis=0)


def ratio(seconds: Array, which: int) -> str:
    """Of one step to the hand-written one of the same round: median over rounds and its 95 % interval (percentile bootstrap)."""
    ratios = seconds[:, which] / seconds[:, 1]
    resampled = np.random.default_rng(0).choice(ratios, (RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(resampled, axis=1), [2.5, 97.5])
    return f"{np.median(ratios):.3f} ({low:.3f}–{high:.3f})"


def main() -> None:
    """Measures and prints."""
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}  # plain gloo on loopback, as the workbench's
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    print(f"{'strategy':<15} {'hand-written':>12} {'ratio of step times':>22} {'noise':>22} {'of processor time':>22}")
    for case in sys.argv[2:] or CASES:
        durations, processor = measure(case, rounds)
        cells = [ratio(durations, 0), ratio(durations, 2), ratio(processor, 0)]
        print(f"{case:<15} {np.median(durations[:, 1]) * 1e3:>9.1f} ms", *(f"{cell:>22}" for cell in cells), flush=True)
    print(f"Wanted: at most {LIMIT}. Medians of {rounds} rounds with 95 % intervals.")


if __name__ == "__main__":
    main()
