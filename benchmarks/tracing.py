"""What recording costs: steps with the light recorder against steps on a bare process group, and trace and memory steps against
plain ones, alternating in one run.

``python benchmarks/tracing.py [ROUNDS [STRATEGY…]]`` starts two workers a strategy. Each first builds the same share three times,
on the recorded process group and twice on plain gloo ones, and every round takes one step of each; the second bare copy against
the first is the noise. Then the workbench's own step loop takes plain, trace and memory steps in turn. The order changes from
round to round. A step counts as long as it takes the slower worker. Printed are medians over the rounds of the ratios of two
steps of the same round, with 95 % bootstrap intervals; processor time is summed over both workers.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from typing import Any

import numpy as np
from steps import Array, ratio

ROUNDS, WARMUP = 60, 5
LIMITS = {"light": 1.02, "trace": 1.2, "memory": 1.5}
SPLITS: dict[str, dict[str, Any]] = {
    "data": {"data": 2},
    "data, sharded": {"fsdp": 2},
    "pipeline 1f1b": {"pipeline": {"size": 2, "schedule": "1f1b"}},
    "tensor": {"tensor": 2},
    "context": {"context": 2},
}
KINDS = ("trace", "timed", "memory")
ORDERS = list(itertools.permutations(range(3)))


def light(rank: int, recorder: Any, control: Any, split: dict[str, Any], rounds: int) -> Array:
    """In a worker: what each step took in seconds, (2, rounds, 3): by the clock and of processor time; on the recorded group, on
    a bare one and on its second copy."""
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    from workbench.plan.resolve import plan
    from workbench.runtime.batches import Batches
    from workbench.runtime.build import build_worker, make_mesh
    from workbench.runtime.optimizer import make_optimizer
    from workbench.runtime.step_loop import take_step
    from workbench.runtime.tracing.recorder import Recorder
    from workbench.spec import RunSpec

    planned, device = plan(RunSpec(split=split)), torch.device("cpu")
    axes, options = planned.mesh.axes, planned.spec.train

    def bare_mesh(copy: int) -> Any:
        mesh: Any = init_device_mesh(
            "cpu", tuple(axes.values()), mesh_dim_names=tuple(axes), backend_override=dict.fromkeys(axes, "gloo")
        )
        mesh._thread_id = copy  # DTensor (torch 2.13) takes equal meshes of one thread for one another, with their groups
        return mesh

    meshes = [(make_mesh(planned, "cpu", recorder), recorder), *((bare_mesh(copy), Recorder()) for copy in (1, 2))]
    workers = [build_worker(planned, rank, mesh, records, device, torch.float32) for mesh, records in meshes]
    optimizers = [make_optimizer(worker, options) for worker in workers]
    batches, took = Batches(planned, device, torch.float32), np.empty((2, WARMUP + rounds, 3))
    for turn in range(WARMUP + rounds):
        inputs, targets = batches.worker_batch(turn, workers[0])
        for which in ORDERS[turn % len(ORDERS)]:
            recorder.begin_step(turn, tracing=False)
            dist.barrier(group=control)
            start = np.array([time.perf_counter(), time.process_time()])
            take_step(workers[which], optimizers[which], inputs, targets)
            took[:, turn, which] = np.array([time.perf_counter(), time.process_time()]) - start
            counted = recorder.end_step()
            assert (counted["num_operations"] > 0) == (which == 0), "bare steps go past the recorded process group"
    return took[:, WARMUP:]


def full(rank: int, recorder: Any, control: Any, split: dict[str, Any], rounds: int) -> Array:
    """In a worker: what each step of the workbench's own loop took, (rounds, 3), in seconds; ``KINDS``."""
    import torch

    from workbench.plan.resolve import plan
    from workbench.runtime import step_loop
    from workbench.runtime.batches import Batches
    from workbench.runtime.build import build_worker, make_mesh
    from workbench.spec import RunSpec

    planned, device = plan(RunSpec(split=split)), torch.device("cpu")
    orders = [ORDERS[turn % len(ORDERS)] for turn in range(rounds)]
    kinds = ["warmup"] * WARMUP + [KINDS[which] for order in orders for which in order]
    step_loop.step_kinds = lambda _: iter(kinds)
    worker = build_worker(planned, rank, make_mesh(planned, "cpu", recorder), recorder, device, torch.float32)
    batches = Batches(planned, device, torch.float32)
    steps = step_loop.run_steps(planned, worker, batches, recorder, lambda **_: None).steps[WARMUP:]
    took = np.empty((rounds, 3))
    for row, place in zip(steps, ((turn, which) for turn, order in enumerate(orders) for which in order), strict=True):
        took[place] = row["duration_s"]
    return took


def main() -> None:
    """Measures and prints."""
    from workbench.testing.workers import run_in_workers

    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}  # plain gloo on loopback, as the workbench's
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    heads = ("light / bare", "noise", "of processor time", "trace / plain", "memory / plain")
    print(f"{'strategy':<15} {'bare step':>10}", *(f"{head:>22}" for head in heads))
    for name in sys.argv[2:] or SPLITS:
        took = np.stack(run_in_workers(2, light, SPLITS[name], rounds))  # (workers, 2, rounds, 3)
        durations, processor = took[:, 0].max(axis=0), took[:, 1].sum(axis=0)
        of_kinds = np.stack(run_in_workers(2, full, SPLITS[name], rounds)).max(axis=0)
        cells = [ratio(durations, 0), ratio(durations, 2), ratio(processor, 0), ratio(of_kinds, 0), ratio(of_kinds, 2)]
        print(f"{name:<15} {np.median(durations[:, 1]) * 1e3:>7.1f} ms", *(f"{cell:>22}" for cell in cells), flush=True)
    wanted = ", ".join(f"{kind} {limit}" for kind, limit in LIMITS.items())
    print(f"Wanted: at most {wanted}. Medians of {rounds} rounds with 95 % intervals.")


if __name__ == "__main__":
    main()
