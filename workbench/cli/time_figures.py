"""The time figures of ``workbench show``: parts, bubble, floating-point operations, noise, and what limits the run. Each figure
is shown with its formula."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from workbench.analysis.formatting import marked, seconds
from workbench.messages import counted

if TYPE_CHECKING:
    from workbench.api import Run
    from workbench.api.store import Summary

_PARTS = ("compute", "exposed_communication", "idle", "optimizer", "schedule", "other")


def lines(run: Run) -> Iterator[str]:
    """Yields sentences about a finished run, the most important first."""
    from workbench.analysis.limits import limit_of
    from workbench.analysis.trace import untraced
    from workbench.analysis.trust import is_disturbed, reason

    summary = run.summary
    if summary is None or (summary.spread is None and summary.compute_s is not None):  # recorded before the spread of parts
        return
    unit = "batch" if run.record.mode == "inference" else "step"
    if is_disturbed(run.row()):
        why = reason(run.record, summary)
        yield f"limit: unknown, because {why}; once the machine is quiet: workbench measure-again {run.id}"
    elif limit := limit_of(run):
        yield f"limit: {limit}"
    if summary.spread is None:
        yield f"{unit}: {untraced(run)}"
    else:
        yield _parts(summary, summary.spread, unit)
        yield from _bubble(run, unit)
    yield from _noise(run, unit)
    yield from _flops(run, summary, unit)
    yield f"data: fetching a batch before each {unit} takes {seconds(summary.data_s)} (median, slowest worker)"


def _parts(summary: Summary, spread: dict[str, tuple[float, ...]], unit: str) -> str:
    named = []
    for part in _PARTS:
        low, high = spread[f"{part}_s"]
        if high > 0:
            name = part.replace("_", " ")
            named.append(f"{name} {seconds(getattr(summary, f'{part}_s'))} ({low * 1e3:.1f}–{high * 1e3:.1f})")
    steps = counted(len(summary.workers[0].trace_steps), "trace step")
    share = spread["other_share"][1]
    text = f"{unit}: {', '.join(named)}; means over workers and {steps}, range in brackets"
    return f"{text}. Unexplained time is at most {share:.1%} of a worker's {unit}"


def _bubble(run: Run, unit: str) -> Iterator[str]:
    from workbench.analysis.bubble import bubble

    frame = bubble(run)
    if frame.empty:
        return
    row = {part: values for part, *values in frame.itertuples(index=False)}
    (measured, share, _), (_, ideal_share, ideal_step) = row["measured"], row["ideal"]
    yield (
        f"bubble: workers are idle {share:.0%} of the {unit}, {seconds(measured)}; ideal for this schedule and the measured stage"
        f" times: {ideal_share:.0%} of {seconds(ideal_step)}"
    )
    parts = ", ".join(f"{part} {row[part][0] * 1e3:.1f}" for part in ("order", "imbalance", "communication", "rest"))
    yield f"  by cause, in ms: {parts} (order: the schedule with equal stages; rest: unexplained)"


def _noise(run: Run, unit: str) -> Iterator[str]:
    from workbench.analysis.noise import measured, median_interval
    from workbench.api.store import all_runs

    times = measured(run, all_runs())
    interval = median_interval(times.times)
    text = (
        f"noise: median of {len(times.times)} timed {'batches' if unit == 'batch' else f'{unit}s'} is {seconds(times.step_time)}"
    )
    if interval:
        text += f", 95 % interval {seconds(interval.low)} to {seconds(interval.high)} (order statistics)"
    if len(times.repeats) > 1:
        low, high = min(times.repeats), max(times.repeats)
        text += f"; {len(times.repeats)} runs of this spec in the store have medians of {seconds(low)} to {seconds(high)}"
    yield text


def _flops(run: Run, summary: Summary, unit: str) -> Iterator[str]:
    flops, counted = summary.flops_per_step, summary.counted_flops_per_step
    record = run.record
    formula = "3 × forward × batch" if record.mode == "train" else "forward × batch"
    if flops is None:
        if counted is not None:
            yield f"FLOPs: {_giga(counted)} per {unit} counted by torch; there is no formula for generation"
        return
    count_text = "not counted by torch" if counted is None else f"{_giga(counted)} counted by torch ({counted / flops:.1%})"
    yield f"FLOPs: {_giga(flops)} per {unit} by formula ({formula}, matrix products only); {count_text}"
    yield f"  achieved {_giga(summary.flops_per_s)}/s = FLOPs by formula / median {unit} time"
    measured_with = summary.peak_is_of
    if summary.utilisation is None and record.device == "cuda":
        yield "  utilisation unknown: `workbench calibrate` does not measure GPUs; set measure.peak_flops_per_s from a data sheet"
    elif summary.utilisation is None:
        yield f"  utilisation unknown: no calibration for {measured_with}; run `workbench calibrate`, then run again"
    else:
        peak = _giga(summary.peak_flops_per_s)
        peak_text = f"measured peak of all workers with {measured_with} each"
        utilisation = marked(f"{summary.utilisation:.1%}", run.row(), "utilisation")
        yield f"  utilisation {utilisation} = achieved / {peak}/s, {peak_text}"
        if summary.stale_calibration:
            yield f"  ⚠ stale calibration: {summary.stale_calibration}; run `workbench calibrate`, then run again"
    if summary.utilisation_of_data_sheet is not None:
        sheet = _giga(summary.data_sheet_flops_per_s)
        share, count = summary.utilisation_of_data_sheet, record.num_workers
        yield f"  {share:.1%} of the data sheet's peak = achieved / ({count} × {sheet}/s)"


def _giga(value: float | None) -> str:
    return "–" if value is None else f"{value / 1e9:.3g} GFLOP"
