"""Speed-up and memory of each strategy over 1, 2 and 4 workers, on a model that computes much and communicates little.

``python benchmarks/scaling.py`` prints a row a run: step time, speed-up against one worker with one thread, the largest worker's
peak memory and communication volume of a step. More workers than cores share the cores, and the table says so.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

import workbench as wb

MODEL = {"name": "transformer", "num_layers": 8, "hidden_dim": 256, "num_heads": 8, "feedforward_dim": 1024}
TRAIN = {"num_steps": 8, "num_warmup_steps": 2, "global_batch_size": 16}
STRATEGIES: dict[str, dict[str, Any]] = {
    "data": {"data": {}},
    "data, sharded": {"data": {"shard": "parameters"}},
    "layer": {"layer": {}},
    "pipeline 1f1b": {"pipeline": {"schedule": "1f1b", "num_microbatches": 8}},
    "pipeline zbv": {"pipeline": {"schedule": "zbv_zero_bubble", "num_microbatches": 8}},
    "tensor": {"tensor": {}},
    "context": {"context": {}},
}
SIZES = (2, 4)


def main() -> None:
    """Runs and prints."""
    num_cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as store:
        os.environ["WORKBENCH_HOME"] = store
        print(f"{'strategy':<15} {'workers':>7} {'step':>9} {'speed-up':>9} {'peak memory':>12} {'communication':>13}")
        base = wb.run(wb.RunSpec(model=MODEL, train=TRAIN))
        _row("one worker", base, "")
        for name, split in STRATEGIES.items():
            for size in SIZES:
                sized = {strategy: {**options, "size": size} for strategy, options in split.items()}
                spec = wb.RunSpec(model=MODEL, train=TRAIN, split=sized, baseline={"mode": base.id})
                _row(name, wb.run(spec), f"  more workers than the {num_cores} cores" if size > num_cores else "")


def _row(name: str, run: wb.Run, note: str) -> None:
    row = run.row()
    volume = row["communication_bytes_per_step"] / 2**20
    print(
        f"{name:<15} {row['num_workers']:>7} {row['step_time_s'] * 1e3:>6.0f} ms {row['speedup']:>8.2f}×"
        f" {row['peak_memory_bytes'] / 2**20:>8.1f} MiB {volume:>9.1f} MiB{note}",
        flush=True,
    )


if __name__ == "__main__":
    main()
