"""The figures of a finished run, from its tables and its workers' last events."""

from __future__ import annotations

from statistics import fmean, median, quantiles
from typing import Any

from workbench.messages import counted
from workbench.metrics.communication import communication_bytes_per_step
from workbench.metrics.utilisation import calibrated_peak
from workbench.store.directory import RunDirectory
from workbench.store.events import Event, FinishedEvent, ParityEvent
from workbench.store.figures import CpuLoad, Summary, WorkerFigures
from workbench.store.load import other_load_cores
from workbench.store.records import RunRecord
from workbench.store.speedup import efficiency, speedup_over

PARTS = ("compute_s", "exposed_communication_s", "idle_s", "optimizer_s", "schedule_s", "other_s")


def summarize(run: RunDirectory, events: list[list[Event]]) -> Summary:
    """Returns the figures of a run whose workers have all finished; ``events`` are those of each worker."""
    record = run.record()
    workers = [next(e.figures for e in reversed(of_rank) if isinstance(e, FinishedEvent)) for of_rank in events]
    steps = [row for row in run.table("steps").to_pylist() if row["kind"] == "timed"]
    slowest = _slowest(steps, "duration_s")
    times = list(slowest.values())
    twentieths = quantiles(times, n=20, method="inclusive") if len(times) > 1 else times * 19
    step_time = median(times)
    spec = run.spec()
    batch = spec.train.global_batch_size
    # A worker's steps count the tokens that it computes: of each of its samples all, or a part of the sequence.
    tokens = next((row["num_tokens"] // row["num_samples"] for row in steps if row["num_tokens"]), 0)
    tokens *= record.mesh.get("context", 1)
    if spec.generates:
        tokens = spec.inference.prompt_length + spec.inference.num_new_tokens
    losses = [row["loss"] for row in steps if row["step"] == max(slowest) and row["loss"] is not None]
    speedup = speedup_over(run, record.baseline_run_id, step_time)
    return Summary(
        step_time_s=step_time,
        step_time_p10_s=twentieths[1],
        step_time_p90_s=twentieths[17],
        step_time_p95_s=twentieths[18],
        samples_per_s=batch / step_time,
        tokens_per_s=batch * tokens / step_time if tokens else None,
        speedup=speedup,
        speedup_same_cores=speedup_over(run, record.same_cores_baseline_run_id, step_time),
        efficiency=efficiency(run, record, speedup),
        parameters_per_worker=max(w.parameters for w in workers),
        peak_memory_bytes=max((w.peak_memory_bytes for w in workers if w.peak_memory_bytes is not None), default=None),
        communication_bytes_per_step=_communication_bytes(record, workers) if spec.measure.num_trace_steps else None,
        **_parts(workers, is_staged="pipeline" in record.mesh),
        final_loss=fmean(losses) if losses else None,
        dropped_tokens=_dropped([w.dropped_tokens for w in workers], record.mesh.get("tensor", 1)),
        **_parity(events[0]),
        other_load_cores=other_load_cores([w.load for w in workers]),
        data_s=median(_slowest(steps, "data_s").values()),
        ready_s=_ready([w.load for w in workers], len(times)),
        **_flops(run, workers, step_time),
        **(_generation(steps, slowest, batch, spec.inference.num_new_tokens) if spec.generates else {}),
        num_timed_steps=len(times),
        workers=tuple(workers),
    )


def _communication_bytes(record: RunRecord, workers: list[WorkerFigures]) -> int | None:
    return communication_bytes_per_step(record.expected.communication, [{"communication": w.communication} for w in workers])


def _parity(events: list[Event]) -> dict[str, Any]:
    """The result of the parity check, from the events of rank 0; nothing if parity was not checked."""
    event = next((e for e in events if isinstance(e, ParityEvent)), None)
    if event is None:
        return {}
    names = (
        "ok", "max_error", "tensor", "allowed", "on_purpose", "verdict", "whole_batch_error", "whole_batch_tensor", "cause",
        "remedy", "is_without_dropout",
    )  # fmt: skip
    return {f"parity_{name}": getattr(event, name) for name in names}


def _parts(workers: list[WorkerFigures], is_staged: bool) -> dict[str, Any]:
    """The parts of a step and what follows from them; nothing without trace steps and on GPUs, where they are not measured."""
    if any(w.compute_s is None for w in workers):
        return {}
    seconds = {part: [getattr(w, part) for w in workers] for part in (*PARTS, "step_s")}
    return {
        **{part: fmean(seconds[part]) for part in PARTS},
        "bubble_fraction": sum(seconds["idle_s"]) / sum(seconds["step_s"]) if is_staged else None,
        "imbalance": max(seconds["compute_s"]) / fmean(seconds["compute_s"]),
        "spread": _spread(workers),
    }


def _slowest(steps: list[dict[str, Any]], column: str) -> dict[int, float]:
    """Of each step the largest value over the workers."""
    largest: dict[int, float] = {}
    for row in steps:
        largest[row["step"]] = max(row[column], largest.get(row["step"], 0.0))
    return largest


def _spread(workers: list[WorkerFigures]) -> dict[str, tuple[float, ...]]:
    """Returns the minimum and maximum of each part over the trace steps (means over workers), and the largest share of a worker's
    step that no event explains."""
    by_step = list(zip(*(w.trace_steps for w in workers), strict=True))
    spread = {part: [fmean(getattr(w, part) for w in step) for step in by_step] for part in PARTS}
    unexplained = max(w.other_s / w.step_s for step in by_step for w in step if w.other_s is not None and w.step_s)
    return {**{part: (min(values), max(values)) for part, values in spread.items()}, "other_share": (0.0, unexplained)}


def _ready(loads: list[CpuLoad | None], num_steps: int) -> float | None:
    """Seconds of a timed step in which a worker was ready to compute and no core was free, mean over workers."""
    times = [load.ready_s for load in loads if load and load.ready_s is not None]
    return fmean(times) / num_steps if times else None


def _flops(run: RunDirectory, workers: list[WorkerFigures], step_time: float) -> dict[str, Any]:
    """By formula and as counted, over all workers; per second; and as a share of what the devices can do, as they were
    measured and as the data sheet says."""
    record, spec = run.record(), run.spec()
    num_workers, threads = record.num_workers, record.threads_per_worker
    flops, counts = record.expected.flops_per_step, [w.counted_flops for w in workers]
    store, here = run.path.parent.parent, run.environment()
    is_cpu = record.device == "cpu"  # what was calibrated are CPUs
    peak = calibrated_peak(store, here, record, spec.train.compute_precision) if is_cpu else None
    sheet = spec.measure.peak_flops_per_s
    per_s = None if flops is None else flops / step_time
    return {
        "flops_per_step": flops,
        "counted_flops_per_step": sum(known) if len(known := [n for n in counts if n is not None]) == len(counts) else None,
        "flops_per_s": per_s,
        "peak_flops_per_s": peak and peak.flops_per_s,
        "peak_is_of": f"{spec.train.compute_precision} and {counted(threads, 'thread')}",
        "data_sheet_flops_per_s": sheet,
        "utilisation": per_s / peak.flops_per_s if per_s is not None and peak else None,
        "stale_calibration": peak.stale if peak else "",
        "utilisation_of_data_sheet": per_s / (sheet * num_workers) if per_s is not None and sheet else None,
    }


def _generation(steps: list[dict[str, Any]], durations: dict[int, float], batch: int, num_new_tokens: int) -> dict[str, Any]:
    """Medians over steps of the time to the last sample's first token, the mean time of each token after it, and all
    generated tokens over the step's whole time."""
    first: dict[int, float] = {}
    for row in steps:
        if row["time_to_first_token_s"] is not None:
            first[row["step"]] = max(row["time_to_first_token_s"], first.get(row["step"], 0.0))
    later = [(durations[step] - start) / (num_new_tokens - 1) for step, start in first.items() if num_new_tokens > 1]
    return {
        "time_to_first_token_s": median(first.values()),
        "time_per_token_s": median(later) if later else None,
        "generated_tokens_per_s": batch * num_new_tokens / median(durations.values()),
    }


def _dropped(per_worker: list[float | None], num_slices: int) -> float | None:
    """Returns the dropped tokens summed over workers; workers along the tensor axis route the same tokens and count once."""
    counts = [value for value in per_worker if value is not None]
    return sum(counts) / num_slices if counts else None
