"""Functions that the conformance suite runs in workers."""

from __future__ import annotations

from typing import Any

import torch

from workbench.metrics.communication import worker_communication
from workbench.plan.batch_modules import pieces
from workbench.plan.resolve import plan
from workbench.runtime.batches import Batches
from workbench.runtime.build import DTYPES, build_worker, make_mesh
from workbench.runtime.link_emulation import emulate_links
from workbench.runtime.parity.check import check_parity
from workbench.runtime.step_loop import run_steps
from workbench.runtime.tracing.recorder import Recorder
from workbench.runtime.tracing.step_breakdown import step_parts
from workbench.runtime.tracing.tables import communication_rows, timeline_rows
from workbench.runtime.tracing.wait_attribution import attribute_waits
from workbench.spec import RunSpec
from workbench.strategies.worker_model import StepResult, WorkerModel
from workbench.testing.mistakes import MISTAKES

CPU = torch.device("cpu")
NUM_PARITY_STEPS = 4
"""Number of steps of a parity check. DDP rebuilds its buckets on the second step and FSDP prefetches in the order of the first,
so steps are alike from the third on. A declared difference takes more if it needs them (``Lossy.num_parity_steps``)."""


def parity(rank: int, recorder: Recorder, control: Any, spec: dict[str, Any], mistake: str | None) -> dict[str, Any] | None:
    """Returns the parity report (on rank 0) of ``NUM_PARITY_STEPS`` SGD steps, optionally with a deliberate mistake."""
    planned = plan(RunSpec(**spec))
    if mistake:
        MISTAKES[mistake](planned)
    mesh = make_mesh(planned, "cpu", recorder)
    report = check_parity(planned, rank, mesh, recorder, CPU, control, NUM_PARITY_STEPS)
    return report.as_dict() if report else None


def _compute_in_shards(worker: WorkerModel, num_shards: int) -> None:
    """Makes one worker compute its batch in shards and average their gradients, as replicas and microbatches do."""
    compute = worker.compute

    def step(inputs: Any, targets: Any) -> StepResult:
        losses = []
        for index, (x, y) in enumerate(zip(pieces(inputs, num_shards), pieces(targets, num_shards), strict=True)):
            worker.dropout_keys.begin_piece(index, num_shards)
            if (loss := compute(x, y).loss) is not None:
                losses.append(loss)
        for _, parameter in worker.named_parameters():
            if parameter.grad is not None:
                parameter.grad.div_(num_shards)
        return StepResult(torch.stack(losses).mean(), None)

    worker.compute = step


def training(rank: int, recorder: Recorder, control: Any, spec: dict[str, Any], num_shards: int = 1) -> dict[str, Any]:
    """Trains for a few steps. Returns the figures, communication, parameters and losses of this worker. One worker may compute
    the batch in ``num_shards`` shards."""
    planned = plan(RunSpec(**spec))
    mesh = make_mesh(planned, "cpu", recorder)
    dtype = DTYPES[planned.spec.train.precision]
    worker = build_worker(planned, rank, mesh, recorder, CPU, dtype)
    if num_shards > 1:
        _compute_in_shards(worker, num_shards)
    recorder.emulated_links = emulate_links(planned.spec.link, planned.mesh, recorder.axes, rank, control)
    record = run_steps(planned, worker, Batches(planned, CPU, dtype), recorder, lambda **_: None)
    attribute_waits(recorder, control, planned.num_workers)
    rows = communication_rows(recorder, origin_s=0.0)
    peak = record.peak_memory
    assert peak is not None
    return {
        "communication": worker_communication(rows, planned.spec.measure.num_trace_steps),
        "parameters": record.parameters,
        "parameter_bytes": record.parameter_bytes,
        "gradient_bytes": record.gradient_bytes,
        "optimizer_state_bytes": record.optimizer_state_bytes,
        **peak.figures(),
        "held_memory_by_category": record.held_memory,
        "kept_activation_bytes": record.kept_activation_bytes,
        **record.allocator_figures,
        "memory": record.memory,
        "peak_tensors": record.peak_tensors,
        "num_shards": worker.num_shards,
        "normalizes_together": worker.normalizes_together,
        "losses": [row["loss"] for row in record.steps],
        "tokens": [row["num_tokens"] for row in record.steps],
        "dropped_tokens": record.dropped_tokens,
        "parts": step_parts(recorder, record.steps),
        "timeline": timeline_rows(recorder, origin_s=0.0),
        "counted_flops": record.counted_flops,
    }


def parity_and_training(rank: int, recorder: Recorder, control: Any, spec: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Runs ``parity`` and ``training`` in the same workers, for suites of many small cases."""
    return parity(rank, recorder, control, spec, None), training(rank, recorder, control, spec)
