"""Builds the sections of a report, in their order. Each examines the runs and returns a section, or None."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from workbench.analysis import formatting, noise
from workbench.analysis.bubble import ideal_timeline
from workbench.analysis.communication import operations, volume_frame
from workbench.analysis.findings import findings_on
from workbench.analysis.ideal_step import ideal_sentences
from workbench.analysis.memory import memory_at_peak, memory_budget_bytes
from workbench.analysis.parity import lower_precision, parity_text
from workbench.analysis.step_lanes import MOST_REPLAYED
from workbench.analysis.trace import timeline
from workbench.analysis.traffic_matrix import traffic_matrix_of
from workbench.analysis.work import different_work
from workbench.charts.communication import LEAST_WORKERS, communication_volume_charts, traffic_matrix_chart
from workbench.charts.comparison import CHARTS
from workbench.charts.memory import memory_at_peak_chart
from workbench.charts.timeline import timeline_chart
from workbench.errors import SpecError
from workbench.export.report.parts import Compared, Drawing, Listing, Part, Section, Sentences, Table
from workbench.spec.files import read_table
from workbench.spec.paths import differing, not_by_default
from workbench.store.directory import RunDirectory
from workbench.store.json_record import plain

SEPARATE_CHARTS = ("step_time", "step_parts", "losses", "memory")
"""Charts of a comparison that have sections of their own."""


def configuration(compared: Compared) -> Section:
    """Lists the differences between the specs; for a single run, its differences from the defaults and the full spec."""
    if len(compared.runs) > 1:
        chosen = {path for run in compared.runs for path in _chosen(run)}
        values = differing([read_table(run.spec_path) for run in compared.runs])
        differing_values = {
            path: row
            for path, row in values.items()
            if path not in ("model.folder", "dataset.folder")
            and (path in chosen or not path.startswith("split.") or path.endswith(".size"))
        }
        if not differing_values:
            return Section("Configuration", "All runs have the same spec.", [_whole_spec(compared.runs[0])])
        heads = ["", *(row["split"] for row in compared.rows)]
        table = Table(heads, [[path, *map(_value, row)] for path, row in differing_values.items()], num_names=len(heads))
        sentence = "Values that differ between the specs. Strategy options that are not listed have their defaults."
        return Section("Configuration differences", sentence, [table])
    run = compared.runs[0]
    changes = Sentences([f"{path} = {_value(value)}" for path, value in _chosen(run).items()])
    sentence = "Values that differ from the defaults:" if changes.sentences else "All values are defaults."
    return Section("Configuration", sentence, [*([changes] if changes.sentences else []), _whole_spec(run)])


def _whole_spec(run: RunDirectory) -> Listing:
    return Listing("Full spec", run.spec_path.read_text(encoding="utf-8"))


def _chosen(run: RunDirectory) -> dict[str, Any]:
    """Returns the differences from the defaults; empty if a plugin of the spec is not installed."""
    try:
        return not_by_default(run.spec())
    except SpecError:
        return {}


def _value(value: Any) -> str:
    return "–" if value is None else str(value)


def results(compared: Compared) -> Section:
    """Lists the figures and the findings."""
    finished = [row for _, row in compared.finished]
    columns = formatting.columns(compared.rows) if finished else ()
    table = Table(
        ["split", "state", *(column.title for column in columns)],
        [
            [row["split"], row["state"], *(column.text(row) if row["step_time_s"] is not None else "" for column in columns)]
            for row in compared.rows
        ],
        num_names=2,
    )
    work = different_work([run for run, _ in compared.finished])
    sentences = findings_on(compared.runs, compared.rows, work)
    if len(compared.runs) > 1:
        measured = [noise.measured(run, compared.runs) for run in compared.runs]
        sentences += noise.sentences(compared.rows, measured, work)
    sentence = "Step: median over the timed steps of the slowest worker. Peak: peak memory of the largest worker."
    drawings = _drawings(compared, "step_time")
    return Section("Results", sentence, [*drawings, table, *([Sentences(sentences)] if sentences else [])])


def failed(compared: Compared) -> Section | None:
    """Lists the reasons of failed runs."""
    parts: list[Part] = []
    for run, row in zip(compared.runs, compared.rows, strict=True):
        if row["state"] not in ("failed", "cancelled", "lost"):
            continue
        error = run.error()
        parts.append(
            Sentences(
                [f"{row['split']}: {run.status().message or row['state']}", *([error.advice] if error and error.advice else [])]
            )
        )
        if error and error.last_lines:
            parts.append(Listing(f"Last output of worker {error.rank}", "\n".join(error.last_lines)))
    return Section("Failures", "These runs have no results.", parts) if parts else None


def parity(compared: Compared) -> Section | None:
    """Shows parity and the losses."""
    finished = compared.finished
    if not finished:
        return None
    summaries = [run.summary() for run, _ in finished]
    rows = [
        [
            row["split"],
            parity_text(row),
            (summary and summary.parity_tensor) or "–",
            *map(_small, (row["parity_max_error"], summary and summary.parity_allowed, row["parity_whole_batch_error"])),
        ]
        for (_, row), summary in zip(finished, summaries, strict=True)
    ]
    table = Table(
        ["split", "parity", "tensor with the largest error", "largest error", "tolerance", "whole-batch error"], rows, num_names=3
    )
    drawing = _drawings(compared, "losses")
    sentence = (
        "Before the run, loss, outputs, gradients and updated parameters are compared with those of one worker that computes the"
        " same shards of the batch, and of one worker that computes the whole batch at once."
        + "".join(dict.fromkeys(f" {reason}." for _, row in finished if (reason := lower_precision(row))))
    )
    return Section("Parity", sentence, [table, *drawing])


def _small(value: float | None) -> str:
    return "–" if value is None else f"{value:.1e}"


def time(compared: Compared) -> Section | None:
    """Shows the breakdown of the step time and the timelines."""
    traced = [(run, row) for run, row in compared.finished if row["compute_s"] is not None]
    if not traced:
        return None
    parts: list[Part] = [*_drawings(compared, "step_parts")]
    for run, row in traced:
        frame = timeline(run)
        if len(frame) > MOST_REPLAYED:
            sentence = f"A step of {row['split']} has {len(frame):,} events, too many for a still picture."
            parts.append(Sentences([f"{sentence} The page Trace and TraceView show them."]))
        elif row["num_workers"] > 1 and len(frame):
            title = f"What does each worker of {row['split']} do during one step?"
            chart = timeline_chart(frame, title, ideal_timeline(run) if "pipeline" in run.record().mesh else None)
            parts.append(Drawing(chart, frame))
            if sentences := ideal_sentences(run):
                parts.append(Sentences(sentences))
    return Section("Step time", "Measured in trace steps, which are never timed steps.", parts)


def choice(compared: Compared) -> Section | None:
    """Shows step time against memory, scaling, and every chart of a comparison without a section of its own."""
    parts = _drawings(compared, *(chart.name for chart in CHARTS if chart.name not in SEPARATE_CHARTS))
    return Section("Trade-offs", "", parts) if parts else None


def _drawings(compared: Compared, *names: str) -> list[Drawing]:
    """Returns the charts of a comparison with these names that are not empty."""
    drawings = []
    for chart in (chart for chart in CHARTS if chart.name in names):
        if len(frame := chart.frame(compared.finished)):
            drawings += [Drawing(drawn, frame) for drawn in chart.charts(frame)]
    return drawings


def communication(compared: Compared) -> Section | None:
    """Returns expected and measured volume, traffic matrix, and time spent by operation."""
    parts: list[Part] = []
    communicating = [(run, row, frame) for run, row in compared.finished if len(frame := volume_frame(run))]
    charts = communication_volume_charts({row["split"]: frame for _, row, frame in communicating})
    for (run, row, _), (chart, frame) in zip(communicating, charts, strict=True):
        is_traced = bool(frame["count"].notna().all())
        parts.append(Drawing(chart, frame))
        heads = ["operation", "axis", "phase", "expected bytes", "measured bytes", "count"]
        rows = [
            [
                *(str(getattr(t, key)) for key in ("operation", "axis", "phase")),
                f"{'at most ' if t.is_bound else ''}{t.expected_bytes:,}",
                *((f"{t.measured_bytes:,.0f}", f"{t.count:g}") if is_traced else ("–", "–")),
            ]
            for t in frame.itertuples()
        ]
        parts.append(Table(heads, rows, num_names=3))
        if row["num_workers"] >= LEAST_WORKERS and len(flows := traffic_matrix_of(run)):
            parts.append(Drawing(traffic_matrix_chart(flows, row["num_workers"]), flows))
        if len(spent := operations(run)):
            heads = ["operation", "axis", "phase", "count", "duration (ms)", "exposed (ms)", "idle (ms)"]
            sums = [
                [*(str(getattr(o, key)) for key in ("operation", "axis", "phase")), f"{o.count:g}"]
                + [formatting.milliseconds(getattr(o, key)) for key in ("duration_s", "exposed_communication_s", "idle_s")]
                for o in spent.itertuples()
            ]
            parts.append(Table(heads, sums, num_names=3))
    sentence = (
        "Per step over the whole run: the first table counts each collective once per group and each send once, the second sums"
        " over workers. A duration runs from the issue of an operation to the end of the wait for it; a send may have arrived"
        " long before."
    )
    return Section("Communication", sentence, parts) if parts else None


def memory(compared: Compared) -> Section | None:
    """Shows the memory of each worker at the end of a step and at its peak."""
    rows: list[list[str]] = []
    drawings = _drawings(compared, "memory") if len(compared.finished) > 1 else []
    for run, row in compared.finished:
        expected = run.record().expected.parameters_per_worker
        summary = run.summary()
        for rank, worker in enumerate(summary.workers if summary else ()):
            sizes = ("gradient_bytes", "optimizer_state_bytes", "peak_memory_bytes", "resident_peak_bytes")
            counts = [f"{expected[rank]:,}", f"{worker.parameters:,}"]
            rows.append([row["split"], str(rank), *counts, *(formatting.mebibytes(getattr(worker, size)) for size in sizes)])
        if len(frame := memory_at_peak(run)):
            title = f"What occupies memory on each worker of {row['split']}?"
            drawings.append(Drawing(memory_at_peak_chart(frame, memory_budget_bytes(run), title), frame))
    heads = ["split", "worker", "expected parameters", "parameters", "gradients", "optimizer state", "peak", "resident peak"]
    sentence = (
        "Parameters, gradients and optimizer state are measured at the end of a step. Peak and categories are measured when the"
        " worker holds the most bytes."
    )
    return Section("Memory", sentence, [Table(heads, rows), *drawings]) if rows else None


def environment(compared: Compared) -> Section:
    """Lists machine and versions, in one column if they are equal for all runs."""
    environments = [
        {**plain(run.environment()), "device": row["device"], "backend": row["backend"]}
        for run, row in zip(compared.runs, compared.rows, strict=True)
    ]
    same = all(environment == environments[0] for environment in environments)
    columns = environments[:1] if same else environments
    heads = ["", *([""] if same else [row["split"] for row in compared.rows])]
    keys = [key for key in columns[0] if any(environment[key] is not None for environment in columns)]
    rows = [[key.replace("_", " "), *(_value(environment[key]) for environment in columns)] for key in keys]
    ids = Sentences([f"{row['split']}: run {run.id}" for run, row in zip(compared.runs, compared.rows, strict=True)])
    return Section("Environment", "", [Table(heads, rows, num_names=len(heads)), ids])


SECTIONS: Sequence[Callable[[Compared], Section | None]] = (
    configuration,
    results,
    failed,
    choice,
    parity,
    time,
    communication,
    memory,
    environment,
)
"""The sections of a report; a new one is added here."""
