"""Timed steps of each strategy against the same split hand-written in plain torch, alternating in one run.

``python benchmarks/steps.py [ROUNDS]`` starts two workers a strategy. Each builds the workbench's share (recorded process group,
light recorder) and the hand-written one twice, on plain gloo groups, and every round takes one step of each, in an order that
changes from round to round. A step counts as long as it takes the slower worker. Printed are medians over the rounds of the
ratios of two steps of the same round, with 95 % bootstrap intervals; the second copy against the first is the noise.
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
from typing import Any

import numpy as np

ROUNDS, WARMUP, RESAMPLES = 200, 5, 2000
NUM_WORKERS = 2
LIMIT = 1.02
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "data": ("data", {"data": 2}),
    "layer": ("layer", {"layer": 2}),
    "pipeline gpipe": ("gpipe", {"pipeline": {"size": 2, "schedule": "gpipe"}}),
    "pipeline 1f1b": ("one_f_one_b", {"pipeline": {"size": 2, "schedule": "1f1b"}}),
    "tensor": ("tensor", {"tensor": 2}),
}
"""Name → function of ``handwritten.py`` and the workbench's split."""


def work(rank: int, rendezvous: str, rounds: int, handwritten_name: str, split: dict[str, Any], pipe: Any) -> None:
    """In a worker: sends its durations in seconds, (rounds, 3): the workbench's, the hand-written's, its second copy's."""
    import handwritten
    import torch
    import torch.distributed as dist

    from workbench.plan.feasibility import plan
    from workbench.runtime.batches import Batches
    from workbench.runtime.build import build_worker, make_mesh, make_optimizer
    from workbench.runtime.process_group import control_group, register_backend
    from workbench.runtime.recorder import Recorder
    from workbench.runtime.training import take_step
    from workbench.spec import RunSpec

    torch.set_num_threads(1)
    planned, recorder, device, timeout = plan(RunSpec(split=split)), Recorder(), torch.device("cpu"), timedelta(minutes=5)
    store = dist.FileStore(rendezvous, NUM_WORKERS)
    dist.init_process_group(register_backend(recorder, "cpu"), store=store, rank=rank, world_size=NUM_WORKERS, timeout=timeout)
    worker = build_worker(planned, rank, make_mesh(planned, "cpu", recorder), recorder, device, torch.float32)
    optimizer = make_optimizer(worker, planned.spec.train.optimizer, planned.spec.train.learning_rate)

    def ours(inputs: torch.Tensor, targets: torch.Tensor) -> float | None:
        loss = take_step(worker, optimizer, inputs, targets).loss
        return None if loss is None else float(loss)

    build = getattr(handwritten, handwritten_name)
    steps: list[Callable[..., float | None]] = [
        ours,
        *(build(rank, dist.new_group(backend="gloo")) for _ in range(2)),
    ]
    control, batches = control_group(timeout), Batches(planned, device, torch.float32)
    durations, losses = np.empty((WARMUP + rounds, 3)), np.full((WARMUP + rounds, 3), np.nan)
    orders = list(itertools.permutations(range(3)))
    for turn in range(WARMUP + rounds):
        recorder.step = turn
        inputs, targets = batches.of_step(turn, worker.batch_part)
        for which in orders[turn % len(orders)]:
            dist.barrier(group=control)
            before = recorder.num_operations
            start = time.perf_counter()
            loss = steps[which](inputs, targets)
            durations[turn, which] = time.perf_counter() - start
            losses[turn, which] = math.nan if loss is None else loss
            assert (recorder.num_operations > before) == (which == 0), "only the workbench's step goes through its process group"
    if not np.isnan(losses[0, 0]):
        np.testing.assert_allclose(
            losses[:WARMUP, 0], losses[:WARMUP, 1], rtol=1e-4, err_msg="the two do not train the same model"
        )
    pipe.send(durations[WARMUP:])
    dist.barrier(group=control)
    os._exit(0)  # gloo's teardown at exit aborts now and then


def measure(case: str, rounds: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Durations of the slower worker in seconds, (rounds, 3)."""
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
            durations = np.max([receiver.recv() for receiver, _ in pipes], axis=0)
        finally:
            for process in processes:
                process.join(5)
                process.kill()
    return durations


def ratio(durations: np.ndarray[Any, np.dtype[np.float64]], over: int, under: int) -> tuple[float, float, float]:
    """Median over rounds of the ratio of two steps of a round, and its 95 % interval (percentile bootstrap)."""
    ratios = durations[:, over] / durations[:, under]
    resampled = np.random.default_rng(0).choice(ratios, (RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(resampled, axis=1), [2.5, 97.5])
    return float(np.median(ratios)), float(low), float(high)


def main() -> None:
    """Measures and prints."""
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}  # plain gloo on loopback, as the workbench's
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    print(f"{'strategy':<15} {'hand-written':>12} {'workbench / hand-written':>26} {'hand-written / itself':>24}")
    for case in CASES:
        durations = measure(case, rounds)
        cells = ["{:.3f} ({:.3f}–{:.3f})".format(*ratio(durations, over, 1)) for over in (0, 2)]
        print(f"{case:<15} {np.median(durations[:, 1]) * 1e3:>9.1f} ms {cells[0]:>26} {cells[1]:>24}", flush=True)
    print(f"Wanted: at most {LIMIT}. Medians of {rounds} rounds with 95 % intervals.")


if __name__ == "__main__":
    main()
