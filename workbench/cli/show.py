"""``workbench show``: one run in detail, with expected and measured values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from workbench.api import Run, open_run
from workbench.api.store import RunRecord, Summary

_MOST_IN_A_MATRIX = 8


@click.command("show")
@click.argument("run")
def show_command(run: str) -> None:
    """Show RUN in detail: figures, expected and measured values, each worker, the cause of a failure."""
    from rich.text import Text

    from workbench.analysis.formatting import seconds
    from workbench.analysis.trust import reason
    from workbench.cli import render, time_figures
    from workbench.cli.memory import memory
    from workbench.cli.terminal import Terminal

    opened = open_run(run)
    row, console = opened.row(), Terminal()
    console.print(Text.assemble((opened.id, "bold"), f"  {row['state']}  {row['name'] or ''}"))
    if row["tags"]:
        console.print(f"tags: {row['tags']}")
    if row["note"]:
        console.print(f"note: {row['note']}")
    console.print(
        f"{row['model']} on {row['dataset']}, {row['split']}, {row['num_workers']} × {row['device']} ({row['backend']})"
    )
    for axis, groups in _process_groups(opened):
        console.print(f"{axis} axis: {groups}")
    if differences := _differences(opened):
        console.print(f"options: {', '.join(differences)}")
    if row["mode"] == "train" and (optimizer := _optimizer(opened)):
        console.print(f"optimizer: {optimizer}")
    for part, code in opened.directory.codes().items():
        what = ", ".join(code.files) or f"{code.distribution or 'a module'} {code.version or ''}".strip()
        console.print(f"code of the {part}: {what}  SHA-256 {code.sha256[:12]}…")
    record = opened.record
    if opened.summary and (why := reason(record, opened.summary)):
        console.print(Text.assemble((f"⚠ {row['trust']}:", "yellow"), f" {why}"))
    if row["link"]:
        console.print(f"link: {row['link']}, emulated; {'; '.join(record.link_notes)}")
    _block_times(console, record)
    if row["state"] != "finished":
        render.failure(console, opened.id, opened.error, opened.message)
        return
    render.whole(console, render.comparison([row], {}))
    if opened.summary and (parity := _parity(row, opened.summary)):
        console.print(f"parity: {parity}", style="red" if row["parity_verdict"] == "wrong" else None)
    is_inference = row["mode"] == "inference"
    if is_inference:
        median, late = seconds(row["step_time_s"]), seconds(row["step_time_p95_s"])
        console.print(f"latency per batch: median {median}, 95th percentile {late}")
    if row["generated_tokens_per_s"] is not None:
        first, later = seconds(row["time_to_first_token_s"]), seconds(row["time_per_token_s"])
        rate = f"{row['generated_tokens_per_s']:.0f} tokens/s"
        console.print(f"generation: time to first token {first}, time per token {later}, {rate}")
        if without := record.expected.no_cache:
            console.print(f"each token took a pass over all positions, without a key/value cache: {without}")
    for line in time_figures.lines(opened):
        console.print(line)
    if row["dropped_tokens"] is not None:
        console.print(f"dropped per step: {row['dropped_tokens']:,g} assignments of tokens to experts above their capacity")
    _communication_volume(console, opened)
    _traffic_matrix(console, opened)
    _bandwidths(console, opened)
    _completions(console, opened)
    _workers(console, opened)
    memory(console, opened)


def _parity(row: dict[str, Any], summary: Summary) -> str:
    """Returns the verdict of the parity check with its largest error; empty if parity was not checked."""
    from workbench.analysis.parity import lower_precision, per_shard

    error, allowed, verdict = row["parity_max_error"], summary.parity_allowed, row["parity_verdict"]
    if verdict is None:
        return ""
    verdicts = {
        "equal": "equals one worker",
        "equal per shard": "equals one worker per shard of the batch",
        "wrong": "differs from one worker",
        "undecided": "undecided",
        "lossy": f"differs from one worker {'per shard of the batch ' if row['parity_cause'] else ''}on purpose",
    }
    size = "infinite" if error is None else f"{error:.1e} in {summary.parity_tensor}"
    purpose = f" ({summary.parity_on_purpose})" if verdict == "lossy" and summary.parity_on_purpose else ""
    bound = "" if allowed is None else f", allowed {allowed:.1e}"
    # If a strategy changes parameters, the error is not relative to one worker but to what it declares of replicas.
    reference = " against the declared result" if purpose and "gradients" not in purpose else ""
    dropout = " with dropout off" if summary.parity_is_without_dropout else ""
    text = f"{verdicts[verdict]}{dropout}{purpose}, largest error{reference} {size}{bound}"
    if verdict == "equal per shard" or (verdict == "lossy" and row["parity_cause"]):
        return f"{text}; {per_shard({**row, 'parity_whole_batch_tensor': summary.parity_whole_batch_tensor})}."
    whole = row["parity_whole_batch_error"]
    reason = lower_precision(row) and f"; {lower_precision(row)}"
    if verdict in ("undecided", "wrong") and row["parity_cause"]:
        reason = f"; {row['parity_cause']}: {row['parity_remedy']}"
    return text + reason if whole is None else f"{text}; error against the unsplit batch {whole:.1e}{reason}"


def _block_times(console: Any, record: RunRecord) -> None:
    """Prints the block times that a partition by time was computed from; its sizes are among the options."""
    from workbench.analysis.formatting import seconds

    if times := record.block_times_s:
        blocks = ", ".join(f"{block} {seconds(time_s)}" for block, time_s in times.items())
        console.print(f"block times, measured before the run: {blocks}")


def _process_groups(run: Run) -> Iterator[tuple[str, str]]:
    """Yields each axis of the mesh of the run with its groups of ranks: ``data``, ``[0 2] [1 3]``."""
    from workbench.api.plans import process_groups

    for axis, groups in process_groups(run).items():
        yield axis, " ".join(f"[{' '.join(map(str, group))}]" for group in groups)


def _optimizer(run: Run) -> str:
    """Returns the optimizer with all its options on one line; empty if a plugin is missing."""
    from workbench.api.plans import optimizer_text
    from workbench.errors import SpecError

    try:
        return optimizer_text(run.spec.train)
    except SpecError:
        return ""  # a plugin is not installed


def _differences(run: Run) -> list[str]:
    """Returns the options that differ from the defaults, as on the command line; empty if a plugin is missing."""
    from workbench.api.specs import not_by_default
    from workbench.errors import SpecError

    try:
        return [f"{path}={value}" for path, value in not_by_default(run.spec).items()]
    except SpecError:
        return []  # a plugin is not installed; the figures of the run can still be shown


def _communication_volume(console: Any, run: Run) -> None:
    from rich.table import Table

    rows = run.communication_volume()
    if not rows:
        return
    table = Table(
        "operation",
        "axis",
        "phase",
        "expected bytes",
        "measured bytes",
        "operations",
        box=None,
        title_justify="left",
    )
    for row in rows:
        expected = f"{row['expected_bytes']:,.0f}"
        measured, count = ("–", "–") if row["count"] is None else (f"{row['measured_bytes']:,.0f}", f"{row['count']:g}")
        at_most = "at most " if row["is_bound"] else ""
        how_often = "" if row["every"] == 1 else f", every {row['every']} steps"
        table.add_row(row["operation"], row["axis"], row["phase"] + how_often, at_most + expected, measured, count)
    console.print("\ncommunication per step, expected and measured:")
    console.print(table)


def _bandwidths(console: Any, run: Run) -> None:
    """Prints the bandwidth of each operation and the calibrated one of the same machine, if this store has it."""
    from rich.table import Table
    from rich.text import Text

    from workbench.analysis.byte_units import in_bytes
    from workbench.analysis.formatting import bandwidth
    from workbench.api.hardware import achieved_bandwidth, stale_calibration

    rows = achieved_bandwidth(run).to_dict("records")
    if not rows:
        return
    table = Table("operation", "axis", "workers", "payload", "achieved (lower bound)", "calibrated", box=None)
    for row in rows:
        achieved, calibrated = row["ring_bytes_per_s"], row["calibrated_bytes_per_s"]
        size = in_bytes(row["payload_bytes"])
        table.add_row(row["operation"], row["axis"], str(row["group_size"]), size, bandwidth(achieved), bandwidth(calibrated))
    console.print("\nbandwidth per worker and direction, median over the trace steps:")
    console.print(table)
    if stale := stale_calibration(run):
        console.print(Text.assemble(("⚠ stale calibration:", "yellow"), f" {stale}; run `workbench calibrate`"))


def _traffic_matrix(console: Any, run: Run) -> None:
    """Prints the traffic matrix of a run with few enough workers."""
    from rich.table import Table

    num_workers = run.record.num_workers
    if not 1 < num_workers <= _MOST_IN_A_MATRIX:
        return
    from workbench.analysis.traffic_matrix import SENT, square, traffic_matrix_of

    frame = traffic_matrix_of(run)
    if frame.empty:
        return
    table = Table("from \\ to", *map(str, range(num_workers)), box=None)
    for rank, row in square(frame, num_workers).iterrows():
        table.add_row(str(rank), *(f"{num_bytes / 2**20:.2f}" if num_bytes else "·" for num_bytes in row))
    by_formula = frame.loc[frame["attribution"] != SENT, "bytes"].sum() / frame["bytes"].sum()
    note = (
        f"; {by_formula:.0%} are collectives, attributed by formula to ring neighbours (all-to-all: evenly to all workers)"
        if by_formula
        else ""
    )
    console.print(f"\ntraffic matrix, MiB per step{note}:")
    console.print(table)


def _completions(console: Any, run: Run) -> None:
    """Prints whether the recorded operations of the trace steps agree with those that torch's profiler saw."""
    workers = [worker.completions for worker in run.summary.workers] if run.summary else []
    recorded = [completions for completions in workers if completions]  # older runs have none
    names = ("num_operations", "num_seen", "num_completed", "num_late")
    num_operations, num_seen, num_completed, num_late = (sum(getattr(c, name) for c in recorded) for name in names)
    if not num_operations or run.record.device != "cpu":
        return
    text = f"trace steps: {num_operations:,} operations recorded, {num_seen:,} seen by torch's profiler"
    text += f", {num_completed:,} of them until completion"
    if num_late:
        text += f"; {num_late} of these completed more than 2 ms after the wait for them ended"
    console.print(f"\n{text}")
    for rank, completions in enumerate(workers):
        for difference in completions.differences if completions else ():
            console.print(f"  worker {rank}: {difference}", style="red")


def _workers(console: Any, run: Run) -> None:
    from rich.table import Table

    from workbench.analysis.byte_units import in_bytes

    trains = run.record.mode == "train"
    heads = ("gradients", "optimizer state") if trains else ()
    table = Table("worker", "expected parameters", "measured parameters", *heads, "peak memory", "resident peak", box=None)
    held = ("gradient_bytes", "optimizer_state_bytes") if trains else ()
    expected = run.record.expected.parameters_per_worker
    for rank, worker in enumerate(run.summary.workers if run.summary else ()):
        sizes = (getattr(worker, key) for key in (*held, "peak_memory_bytes", "resident_peak_bytes"))
        table.add_row(str(rank), f"{expected[rank]:,}", f"{worker.parameters:,}", *map(in_bytes, sizes))
    console.print("\nworkers:")
    console.print(table)
