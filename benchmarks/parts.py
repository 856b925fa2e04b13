"""How much of a trace step no event explains: at most 2 % for every worker of every trace step, whatever the split.

``python benchmarks/parts.py [NAME …]`` runs each case in workers of its own and prints, of the worker and trace step where it is
largest, the share that no event explains, and what the schedule itself takes. Exits with 1 where a step of at least
``SHORTEST_S`` leaves more than 2 % unexplained: between a step's events lies about 0.1 ms of Python that nothing can divide
further, which is more than that of a shorter step.
"""

from __future__ import annotations

import sys
from typing import Any

from workbench.testing.cases import training
from workbench.testing.workers import run_in_workers

LIMIT, SHORTEST_S = 0.02, 0.010
TRANSFORMER, LSTM, MOE = {"name": "transformer"}, {"name": "lstm"}, {"name": "moe"}
TINY = {"name": "mlp", "num_layers": 2, "hidden_dim": 16, "feedforward_dim": 32}
SCHEDULES = ("gpipe", "1f1b", "interleaved_1f1b", "looped_bfs", "interleaved_zero_bubble", "zbv_zero_bubble", "dualpipev")
CASES: dict[str, dict[str, Any]] = {
    "single": {"split": {}},
    **{name: {"split": {name: 2}} for name in ("data", "fsdp", "zero1", "zero2", "layer", "tensor", "context")},
    "data, accumulated": {"split": {"data": {"size": 2, "num_accumulation_steps": 4}}},
    "tensor, sequence": {"split": {"tensor": {"size": 2, "sequence_parallel": True}}},
    "expert": {"model": MOE, "split": {"data": 2, "expert": 2}},
    **{name: {"split": {"pipeline": {"size": 2, "schedule": name}}} for name in SCHEDULES},
    "time_chunks": {"model": LSTM, "split": {"pipeline": {"size": 2, "schedule": "time_chunks"}}},
    "dp2-pp2-tp2": {"split": {"data": 2, "pipeline": 2, "tensor": 2}},
    "inference, pipeline": {"mode": "inference", "split": {"pipeline": 2}},
    "generation, pipeline": {"mode": "inference", "inference": {"num_new_tokens": 8}, "split": {"pipeline": 2}},
    "generation, tensor": {"mode": "inference", "inference": {"num_new_tokens": 8}, "split": {"tensor": 2}},
    "tiny, single": {"model": TINY, "split": {}},
    "tiny, data": {"model": TINY, "split": {"data": 2}},
    "tiny, tensor": {"model": TINY, "split": {"tensor": 2}},
    "tiny, 1f1b": {"model": TINY, "split": {"pipeline": 2}},
}


def main() -> int:
    """Measures and prints."""
    wanted, too_much = sys.argv[1:] or list(CASES), []
    print(f"{'case':<25} {'step':>9} {'unexplained':>12} {'':>9} {'schedule':>9}")
    for name in wanted:
        spec = {"model": TRANSFORMER, "train": {"num_steps": 2, "num_warmup_steps": 2}, **CASES[name]}
        size = 1
        for options in spec["split"].values():
            size *= options["size"] if isinstance(options, dict) else options
        size = size // 2 if "expert" in spec["split"] else size
        workers = run_in_workers(size, training, spec)
        steps = [step for worker in workers for step in worker["parts"]["trace_steps"]]
        worst = max(steps, key=lambda step: step["other_s"] / step["step_s"])
        share, length = worst["other_s"] / worst["step_s"], worst["step_s"]
        schedule = max(step["schedule_s"] / step["step_s"] for step in steps)
        print(f"{name:<25} {length * 1e3:>6.1f} ms {share:>12.2%} {worst['other_s'] * 1e3:>6.2f} ms {schedule:>9.1%}", flush=True)
        if share > LIMIT and length >= SHORTEST_S:
            too_much.append(name)
    print(f"Wanted: at most {LIMIT:.0%} unexplained of steps of at least {SHORTEST_S * 1e3:.0f} ms; more: {too_much or 'none'}.")
    return int(bool(too_much))


if __name__ == "__main__":
    sys.exit(main())
