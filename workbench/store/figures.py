"""Typed records of the figures of a run: of each worker, and of ``summary.json``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workbench.plan.parity import verdict
from workbench.store.json_record import Record


@dataclass(frozen=True, kw_only=True)
class StepParts(Record):
    """Where the time of a step of a worker goes, in seconds; None on GPUs, where only the step's length is known."""

    step_s: float | None = None
    compute_s: float | None = None
    optimizer_s: float | None = None
    exposed_communication_s: float | None = None
    idle_s: float | None = None
    schedule_s: float | None = None
    other_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class TraceStep(StepParts):
    """The parts of one trace step."""

    step: int


@dataclass(frozen=True)
class AxisTimes(Record):
    """How long a worker was blocked along an axis of the mesh in a trace step, in seconds."""

    exposed_communication_s: float = 0.0
    idle_s: float = 0.0


@dataclass(frozen=True)
class CpuLoad(Record):
    """Processor time in a period, in seconds."""

    elapsed_s: float
    machine_s: float
    """Of all processes on all cores."""
    process_s: float
    """Of this process."""
    ready_s: float | None = None
    """Time for which the main thread, which computes, was runnable but had no core; None if the system does not report it."""

    @classmethod
    def upgraded(cls, values: dict[str, Any]) -> dict[str, Any]:
        """``process_s`` was once named ``own_s``."""
        return {**values, "process_s": values["own_s"]} if "own_s" in values else values


@dataclass(frozen=True)
class Completions(Record):
    """The recorded operations of a worker's trace steps beside those that gloo reported."""

    num_operations: int
    num_seen: int
    """Operations that gloo reported."""
    num_completed: int
    """Recorded operations whose time of completion is known."""
    num_late: int
    """Those of them that completed after the wait for them had ended, by more than the tolerance."""
    differences: tuple[str, ...] = ()
    """Sentences, one for each kind of operation that differs."""


@dataclass(frozen=True, kw_only=True)
class WorkerFigures(StepParts):
    """The figures of one worker, means over the trace steps where they are times."""

    parameters: int
    """Parameter elements that the worker holds."""
    parameter_bytes: int | None = None
    gradient_bytes: int | None = None
    optimizer_state_bytes: int | None = None

    peak_memory_bytes: int | None = None
    """The most bytes of tensors alive at once in any memory step; the next two are of that moment."""
    peak_memory_event: str | None = None
    peak_memory_by_category: dict[str, int] | None = None
    held_memory_by_category: dict[str, int] | None = None
    """At the end of the last memory step."""
    kept_activation_bytes: int | None = None
    """The most bytes of activations alive when a backward pass of a memory step began."""
    allocator_peak_bytes: int | None = None
    """What the allocator reports of the peak; the next three it reports on GPUs only."""
    allocated_peak_bytes: int | None = None
    reserved_peak_bytes: int | None = None
    fragmentation: float | None = None
    resident_peak_bytes: int | None = None
    """Most memory of the process, code and libraries included."""

    dropped_tokens: float | None = None
    """Assignments of a token to a full expert of this worker in a step, mean over the timed steps."""
    load: CpuLoad | None = None
    """During the timed steps."""
    counted_flops: int | None = None
    """Floating-point operations of a step as torch counts them."""
    completions: Completions | None = None
    trace_steps: tuple[TraceStep, ...] = ()
    axes: dict[str, AxisTimes] | None = None
    """Axis → time blocked along it. None: an earlier version did not record it."""
    communication: tuple[dict[str, Any], ...] = ()
    """Rows of ``metrics.communication.worker_communication``."""


@dataclass(frozen=True, kw_only=True)
class Summary(Record):
    """``summary.json``: the figures of a finished run. ``docs/tables.md`` describes those that are columns of ``runs``."""

    step_time_s: float
    step_time_p10_s: float | None = None
    step_time_p90_s: float | None = None
    step_time_p95_s: float | None = None
    samples_per_s: float | None = None
    tokens_per_s: float | None = None
    speedup: float | None = None
    speedup_same_cores: float | None = None
    efficiency: float | None = None
    parameters_per_worker: int | None = None
    peak_memory_bytes: int | None = None
    communication_bytes_per_step: int | None = None
    compute_s: float | None = None
    exposed_communication_s: float | None = None
    idle_s: float | None = None
    optimizer_s: float | None = None
    schedule_s: float | None = None
    other_s: float | None = None
    bubble_fraction: float | None = None
    imbalance: float | None = None
    final_loss: float | None = None
    dropped_tokens: float | None = None
    parity_ok: bool | None = None
    parity_max_error: float | None = None
    parity_tensor: str | None = None
    """The tensor with the largest error."""
    parity_allowed: float | None = None
    """The largest error of this tensor that is not a mistake."""
    parity_on_purpose: str | None = None
    parity_verdict: str | None = None
    parity_whole_batch_error: float | None = None
    parity_whole_batch_tensor: str | None = None
    parity_cause: str | None = None
    parity_remedy: str | None = None
    parity_is_without_dropout: bool | None = None
    """Whether parity was checked with dropout off."""
    other_load_cores: float | None = None
    data_s: float | None = None
    """Fetching the batch of a timed step: median over steps of the slowest worker's time."""
    ready_s: float | None = None
    """Time of a timed step in which a worker was ready to compute and no core was free, mean over workers."""
    spread: dict[str, tuple[float, ...]] | None = None
    """Part → minimum and maximum over the trace steps, means over workers; ``other_share``: 0 and the largest share of a
    worker's step that no event explains. None without parts, and in runs of earlier versions."""
    flops_per_step: int | None = None
    counted_flops_per_step: int | None = None
    flops_per_s: float | None = None
    peak_flops_per_s: float | None = None
    """Measured peak of all workers."""
    peak_is_of: str | None = None
    """Precision and threads that the peak was measured with: ``fp32 and 1 thread``."""
    data_sheet_flops_per_s: float | None = None
    """Peak of one worker's device, from the spec."""
    utilisation: float | None = None
    stale_calibration: str | None = None
    """Why the calibration behind ``utilisation`` may not hold for the run; None or empty if nothing says so."""
    utilisation_of_data_sheet: float | None = None
    time_to_first_token_s: float | None = None
    time_per_token_s: float | None = None
    generated_tokens_per_s: float | None = None
    num_timed_steps: int | None = None
    workers: tuple[WorkerFigures, ...] = ()

    @classmethod
    def upgraded(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Before the whole batch was compared, the verdict followed from ``parity_ok``."""
        return values if "parity_verdict" in values else {**values, "parity_verdict": verdict(values)}
