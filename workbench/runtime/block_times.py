"""Measures the time of each block of a model.

``python -m workbench.runtime.block_times SPEC.toml`` prints the seconds by block as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from workbench.models.blocks_modules import Blocks
from workbench.plan.batch_modules import pieces
from workbench.plan.plan import Plan
from workbench.plan.resolve import plan
from workbench.runtime.batches import Batches
from workbench.runtime.build import DTYPES, build_blocks
from workbench.spec.files import load
from workbench.strategies.pipeline.stages import staged_strategy
from workbench.torch_private.dispatch import tree_map

NUM_WARMUPS, NUM_REPETITIONS = 2, 7


def block_times(planned: Plan) -> dict[str, float]:
    """Returns the median seconds of the forward and, in training, backward pass of each block over one microbatch. The last block
    includes the loss. Blocks that cannot be cut apart are timed together, as the first of them."""
    device, dtype = torch.device(planned.device), DTYPES[planned.spec.train.compute_precision]
    strategy = staged_strategy(planned.spec)
    cut_dim, count = (0, 1) if strategy is None else (strategy.cut_dim, strategy.num_microbatches)
    names = [b.name for b in planned.full_model.blocks]
    blocks = build_blocks(planned, names, dtype).to(device)
    inputs, targets = Batches(planned, device, dtype).step_batch(0, (0, planned.mesh.num_replicas))
    samples, targets = pieces(inputs, count, cut_dim)[0], pieces(targets, count, cut_dim)[0]
    trains, times = planned.spec.mode == "train", dict[str, float]()

    def measure(part: Blocks, inputs: tuple[Any, ...], is_last: bool) -> tuple[tuple[Any, ...], float]:
        inputs = tree_map(lambda x: x.detach().requires_grad_(trains and x.is_floating_point()), inputs)
        part.samples = samples
        start = _now(device)
        with torch.set_grad_enabled(trains):
            outputs = part(*inputs)
            passed = outputs if isinstance(outputs, tuple) else (outputs,)
            results = (planned.model.loss(outputs, targets),) if trains and is_last else passed
        if trains:
            torch.autograd.backward(results, [torch.ones_like(result) for result in results])
        return passed, _now(device) - start

    passed: tuple[Any, ...] = (samples,)
    together: list[str] = []
    for block in planned.full_model.blocks:
        together.append(block.name)
        if block.is_cut_point:
            part = blocks.part(together)
            measurements = [measure(part, passed, block.name == names[-1]) for _ in range(NUM_WARMUPS + NUM_REPETITIONS)]
            times |= dict.fromkeys(together, 0.0) | {together[0]: median(seconds for _, seconds in measurements[NUM_WARMUPS:])}
            passed, together = measurements[-1][0], []
    return times


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


if __name__ == "__main__":
    spec = load(Path(sys.argv[1]))
    torch.set_num_threads(spec.launch.threads_per_worker)
    print(json.dumps(block_times(plan(spec))))
