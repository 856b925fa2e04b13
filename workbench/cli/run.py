"""``workbench run``: runs a spec or the demonstration, and prints progress, one table and the findings."""

from __future__ import annotations

import contextlib
import math
import re
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from workbench.api.specs import RunSpec, four_strategies, override, read_table
from workbench.cli.assertion import parse
from workbench.cli.output import runs_document
from workbench.errors import AssertionFailedError, RunFailedError, UsageError

if TYPE_CHECKING:
    from workbench.api import Run
    from workbench.api.plans import Plan


DATASET_HELP = (
    "Name of the dataset (see `workbench datasets`), or your own: a .csv, .tsv, .parquet, .arrow, .npz, .npy or .txt file, a"
    " folder of images by class, hf:PATH of a saved Hugging Face dataset, or PATH.py:CALLABLE or package.module:CALLABLE, which"
    " returns a torch dataset."
)
_NUMBER = re.compile(r"\d+\.\d+")


@click.command("run")
@click.argument("spec_file", required=False)
@click.option(
    "--model",
    help="Name of the model (see `workbench models`), or your own: PATH.py:CALLABLE or package.module:CALLABLE, which returns an"
    " nn.Module, hf:PATH/config.json or hf:TYPE, a config of Transformers.",
)
@click.option("--dataset", help=DATASET_HELP)
@click.option(
    "--split",
    "splits",
    multiple=True,
    metavar="STRATEGY=SIZE[,OPTION=VALUE…]",
    help="Strategy with its size and options; repeat to combine strategies.",
)
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="PATH=VALUE",
    help="Set a key of the spec, such as train.num_steps=50; can be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@click.option("--assert", "assertion", help="Exit with code 3 unless this holds: 'speedup > 1.2 and final_loss < 4'.")
@click.option("--detach", is_flag=True, help="Print the ids of the runs once they are submitted, and leave them; see `attach`.")
@click.option("--no-server", is_flag=True, help="Start processes without the fork server (slower).")
def run_command(
    spec_file: str | None,
    model: str | None,
    dataset: str | None,
    splits: tuple[str, ...],
    sets: tuple[str, ...],
    as_json: bool,
    assertion: str | None,
    detach: bool,
    no_server: bool,
) -> None:
    """Run the spec in SPEC_FILE or given by the options, and its one-worker baseline.

    Without arguments, run the demonstration: one worker, then each of four strategies on two workers.
    """
    if spec_file == "":
        raise UsageError("SPEC_FILE must name a TOML file, but got ''")
    is_demonstration = not (spec_file or model or dataset or splits or sets)
    if no_server:
        sets = (*sets, "launch.fork_server=false")
    table = override(read_table(Path(spec_file)) if spec_file else {}, model=model, dataset=dataset, splits=splits, sets=sets)
    spec = RunSpec(**table)
    specs = four_strategies(spec) if is_demonstration else [spec]
    assertions = parse(assertion) if assertion is not None else []
    if detach and assertions:
        raise UsageError("--assert needs the result, for which --detach does not wait; use `workbench attach`, or leave one out")

    from workbench.api.plans import plan

    plans = [plan(spec) for spec in specs]
    if notice := plans[0].device_notice:
        click.echo(notice, err=True)
    if detach:
        _detach(plans, as_json)
        return
    runs, planned_runs = _run_all(plans, quiet=as_json)
    rows = [run.row() for run in runs]
    if as_json:
        click.echo(runs_document(rows))
    else:
        report(runs, rows)
    check_results([run.row() for run in planned_runs], assertions)


def _detach(plans: Sequence[Plan], as_json: bool) -> None:
    """Submits each plan, and prints the runs."""
    from workbench.api.submission import submit_plan

    planned_runs: list[Run] = []
    with ended_on_interrupt(planned_runs):
        for planned in plans:
            planned_runs.append(submit_plan(planned))
    if as_json:
        click.echo(runs_document([run.row() for run in planned_runs]))
        return
    for run in planned_runs:
        click.echo(run.id)


def with_baselines(run: Run) -> list[Run]:
    """Returns a run behind the runs on one worker that it is compared with."""
    from workbench.api import open_run

    record = run.record
    ids = (record.baseline_run_id, record.same_cores_baseline_run_id)
    return [*(open_run(other) for other in dict.fromkeys(ids) if other and other != run.id), run]


def _run_all(plans: Sequence[Plan], quiet: bool) -> tuple[list[Run], list[Run]]:
    """Runs each plan to its end; returns all runs to show, baselines first, and the runs of the plans."""
    from workbench.api.submission import submit_plan

    runs: dict[str, Run] = {}
    planned_runs: list[Run] = []
    with ended_on_interrupt(planned_runs):
        for planned in plans:
            run = submit_plan(planned)
            planned_runs.append(run)
            for other in with_baselines(run):
                if other.id not in runs:
                    runs[other.id] = other
                    follow(other, quiet)
    return list(runs.values()), planned_runs


@contextlib.contextmanager
def ended_on_interrupt(runs: list[Run]) -> Iterator[None]:
    """Ends the runs, which may become more in the block, if the block is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # a second signal must not leave processes behind
        for run in runs:
            run.end()
        raise


def follow(run: Run, quiet: bool) -> None:
    """Shows the progress of the run on stderr until it has ended: a bar in a terminal, otherwise a line per state; if ``quiet``,
    only waits."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from workbench.analysis.formatting import run_name
    from workbench.analysis.parity import event_text
    from workbench.api.store import ParityEvent, StepEvent
    from workbench.cli.terminal import Terminal

    record = run.record
    name = run_name(record)
    if quiet:
        run.wait()
        return
    console = Terminal(stderr=True)
    columns = (
        TextColumn("{task.description:<24}", markup=False),
        BarColumn(14),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    last_message = ""
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=None, note=run.message)
        for event in run.follow(with_silence=True):
            if event is None:
                message = run.message or run.state
                if message != last_message and run.state in ("queued", "starting"):
                    progress.update(task, note=message)
                    if not console.is_terminal and _NUMBER.sub("", message) != _NUMBER.sub("", last_message):
                        console.print(f"{name}: {message}")  # of a load that changes every second, the first
                    last_message = message
            elif isinstance(event, ParityEvent):
                progress.update(task, note=event_text(event))
            elif isinstance(event, StepEvent):
                loss = None if event.loss is None else f"loss {event.loss:.3f}"
                figure = f"{event.duration_s * 1e3:.1f} ms per batch" if record.mode == "inference" else loss
                note = "  ".join([event.kind, *([figure] if figure else [])])
                progress.update(task, total=event.num_steps, completed=event.step + 1, note=note)
        progress.update(task, note=run.state)
    if not console.is_terminal:
        console.print(f"{name}: {run.state}")


def report(runs: Sequence[Run], rows: list[dict[str, Any]]) -> None:
    """Prints the table, the findings, the failures and the next command."""
    from workbench.analysis.findings import findings_on
    from workbench.cli.render import comparison, failure, whole
    from workbench.cli.terminal import Terminal

    console = Terminal()
    threads = {run.id: run.record.threads_per_worker for run in runs}
    console.print()
    whole(console, comparison(rows, threads))
    console.print()
    for sentence in findings_on(runs, rows):
        console.print(f"• {sentence}")
    if sentence := _does_not_fit(runs):
        console.print(f"• {sentence}")
    for run in runs:
        for note in run.record.link_notes:
            console.print(f"• {run.record.split}: {note}.")
    causes = set()
    for run in runs:
        cause = run.record.split, run.error.exception if run.error else run.id
        if run.state != "finished" and cause not in causes:  # the baseline with more threads fails for the same reason
            failure(console, run.id, run.error, run.message)
        causes.add(cause)
    from workbench.api.remeasurement import can_be_measured_again

    again = [run.id for run in runs if can_be_measured_again(run)]
    if again:
        console.print(f"\nOnce the machine is quiet: workbench measure-again {' '.join(again)}", soft_wrap=True)
    last = runs[-1].id
    console.print(f"\nNext: workbench show {last}  ·  workbench run --help  ·  workbench ls")


def _does_not_fit(runs: Sequence[Run]) -> str:
    """Returns a sentence on which splits exceed the memory budget and which fit; empty if none exceeds it."""
    over = list(dict.fromkeys(run.record.split for run in runs if run.error and run.error.memory))
    if not over:
        return ""
    fits = list(dict.fromkeys(run.record.split for run in runs if run.state == "finished"))
    budget = f"{(runs[0].spec.measure.memory_budget_bytes or 0) / 2**20:.2f} MiB per worker"
    return f"Exceeds {budget}: {', '.join(over)}." + (f" Fits: {', '.join(fits)}." if fits else "")


def check_results(rows: list[dict[str, Any]], assertions: list[Any]) -> None:
    """Checks the runs and the assertions.

    Raises:
        RunFailedError: a run has not finished.
        AssertionFailedError: parity failed, a loss is not finite or an assertion is false.
    """
    if unfinished := [row for row in rows if row["state"] != "finished"]:
        raise RunFailedError("; ".join(f"run {row['run_id']} {row['state']}" for row in unfinished))
    for row in rows:
        if row["parity_verdict"] == "wrong":
            error = "not finite" if row["parity_max_error"] is None else row["parity_max_error"]
            cause = f"; {row['parity_cause']}" if row["parity_cause"] else ""
            raise AssertionFailedError(f"{row['run_id']}: parity failed, largest error {error}{cause}")
        if row["mode"] == "train" and (row["final_loss"] is None or not math.isfinite(row["final_loss"])):
            raise AssertionFailedError(f"{row['run_id']}: the final loss is not finite: {row['final_loss']}")
        for assertion in assertions:
            if not assertion.holds(row):
                raise AssertionFailedError(
                    f"{row['run_id']}: assertion {assertion} is false: {assertion.column} is {row[assertion.column]}"
                )
