"""A run on one worker, a split and a failed one, as their processes might have left them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.helpers.run_directory import run_record
from workbench.spec import RunSpec
from workbench.spec.files import dumps
from workbench.store.columns import RUN_FIGURES, RUNS
from workbench.store.directory import RunDirectory
from workbench.store.figures import Summary
from workbench.store.json_record import from_json
from workbench.store.records import Environment
from workbench.store.run_status import RunState, RunStatus

SINGLE, SPLIT, FAILED = "20261124-100000-single-aaaaaa", "20261124-100001-dp2-bbbbbb", "20261124-100002-dp2-cccccc"
WORKER = {
    "parameters": 1000, "gradient_bytes": 4000, "optimizer_state_bytes": 8000, "peak_memory_bytes": 2**20,
    "resident_peak_bytes": 3 * 2**20, "communication": [], "step_s": 0.5,
}  # fmt: skip
HELD = {"parameters": 2**18, "gradients": 2**18, "optimizer_state": 2**19}
ALL_REDUCE = {"operation": "all_reduce", "axis": "data", "phase": "backward", "count": 2, "payload_bytes": 4096,
              "group_size": 2}  # fmt: skip


def record_run(
    store: Path, run_id: str, state: str, num_workers: int, *, baseline: str = SINGLE, num_threads: int = 1, **figures: Any
) -> RunDirectory:
    split = {"data": num_workers} if num_workers > 1 else {}
    spec = RunSpec(model="mlp", split=split, train={"num_steps": 7}, launch={"device": "cpu"})
    record = {
        "run_id": run_id, "name": "", "mode": "train", "model": "mlp", "dataset": "digits", "split": spec.split.label,
        "num_workers": num_workers, "device": "cpu", "torch_version": "2", "created_at": 0.0,
        "baseline_run_id": baseline, "threads_per_worker": num_threads, "num_cores": 2, "mesh": {"data": num_workers},
        "expected": {"parameters_per_worker": [1000] * num_workers, "communication": [{**ALL_REDUCE, "count": 1}],
                     "memory_per_worker": [{**HELD, "activations": 2**18}] * num_workers},
    }  # fmt: skip
    run = RunDirectory.create(store, run_id, dumps(spec), run_record(**record), Environment())
    run.write_status(RunStatus(RunState(state)))
    if state == "finished":
        numbers: dict[str, Any] = {name: 1 if RUNS[name].kind == "int64" else 0.5 for name in RUN_FIGURES}
        numbers["other_load_cores"] = 0.0
        worker = {**WORKER, "communication": [{**ALL_REDUCE, "payload_bytes": 5000}]}
        parity = {"parity_ok": True, "parity_tensor": "a.weight"}
        run.write_summary(from_json(Summary, {**numbers, **parity, "workers": [worker] * num_workers, **figures}))
    return run
