"""Commands on recorded runs: ls, logs, compare, export, cancel, rm, gc, label, import."""

from __future__ import annotations

from pathlib import Path

import click

from workbench.api.store import all_runs, import_runs, open_exact, open_run, run_rows
from workbench.cli.output import printable, runs_document, written
from workbench.errors import UsageError
from workbench.messages import counted


@click.command("ls")
@click.option("--json", "as_json", is_flag=True, help='Print one JSON document on stdout: {"runs": [row, …]}.')
def ls_command(as_json: bool) -> None:
    """List the runs in the store, oldest first."""
    from workbench.analysis.formatting import factor, marked

    rows = run_rows()
    if as_json:
        click.echo(runs_document(rows))
        return
    if not rows:
        click.echo("The store has no runs; start with `workbench run`.", err=True)
        return
    width = max(len(row["run_id"]) for row in rows)
    click.echo(f"{'run':<{width}}  {'state':<9}  {'model':<12}  {'step time':>10}  {'speed-up':>8}  name")
    for row in rows:
        step = "–" if row["step_time_s"] is None else marked(f"{row['step_time_s'] * 1e3:.1f} ms", row, "step_time_s")
        speedup = marked(factor(row["speedup"]), row, "speedup")
        model = row["model"] or ""
        # The two baselines of a comparison differ only in their threads.
        threads = row["threads_per_worker"] if row["num_workers"] == 1 else None
        threads_text = threads and f"[{counted(threads, 'thread')}]"
        tags = row["tags"] and f"tags: {row['tags']}"
        name = "  ".join(part for part in (row["name"], row["link"] and f"[{row['link']}]", threads_text, tags) if part)
        line = f"{row['run_id']:<{width}}  {row['state']:<9}  {model:<12}  {step:>10}  {speedup:>8}  {name}"
        click.echo(printable(line.rstrip()))
        if row["state"] == "queued" and (message := open_exact(row["run_id"]).message):
            click.echo(printable(f"{'':<{width}}  {message}"))


@click.command("logs")
@click.argument("run")
@click.option("--rank", type=int, help="Show only the output of this rank.")
def logs_command(run: str, rank: int | None) -> None:
    """Show the output of the workers of RUN."""
    opened = open_run(run)
    num_workers = opened.record.num_workers
    if rank is not None and not 0 <= rank < num_workers:
        raise UsageError(f"--rank: {opened.id} has ranks 0 to {num_workers - 1}, but got {rank}")
    for shown_rank in range(num_workers) if rank is None else [rank]:
        text = opened.log(shown_rank)
        click.echo(f"── rank {shown_rank}" + ("" if text else " (empty)"))
        click.echo(text, nl=False)


@click.command("compare")
@click.argument("runs", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help='Print one JSON document on stdout: {"runs": [row, …]}.')
def compare_command(runs: tuple[str, ...], as_json: bool) -> None:
    """Compare RUNS side by side and list the findings."""
    opened_runs = [open_run(run) for run in runs]
    rows = [run.row() for run in opened_runs]
    if as_json:
        click.echo(runs_document(rows))
        return
    from workbench.analysis import noise
    from workbench.analysis.findings import findings_on
    from workbench.analysis.work import different_work
    from workbench.cli.render import comparison, whole
    from workbench.cli.terminal import Terminal

    console = Terminal()
    whole(console, comparison(rows, {run.id: run.record.threads_per_worker for run in opened_runs}))
    store = all_runs()
    work = different_work([run for run in opened_runs if run.summary])
    differences = noise.sentences(rows, [noise.measured(run, store) for run in opened_runs], work)
    for sentence in [*findings_on(opened_runs, rows, work), *differences]:
        console.print(f"• {sentence}")


@click.command("export")
@click.argument("runs", nargs=-1, required=True)
@click.option("--to", type=click.Path(path_type=Path, file_okay=False), help="Directory to write the tables to.")
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["csv", "parquet"]),
    default="csv",
    show_default=True,
    help="Format of the tables.",
)
@click.option(
    "--trace",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write a trace of all workers to, for Perfetto, chrome://tracing or speedscope: trace.json or trace.json.gz.",
)
def export_command(runs: tuple[str, ...], to: Path | None, file_format: str, trace: Path | None) -> None:
    """Export RUNS and their tables, a trace of their workers, or both."""
    from workbench.export.chrome_trace import write_trace
    from workbench.export.tables import export

    if to is None and trace is None:
        raise UsageError("export needs a destination: --to DIRECTORY for the tables or --trace FILE for a trace of all workers")
    opened_runs = [open_run(run) for run in runs]
    with written("export"):
        for path in export(opened_runs, to, file_format) if to is not None else []:
            click.echo(path)
        if trace is not None:
            click.echo(write_trace(opened_runs, trace))
            for run in opened_runs:
                if not run.table("steps").num_rows:
                    click.echo(
                        f"workbench: {run.id} ({run.state}) has no recorded steps: its part of the trace is empty",
                        err=True,
                    )


@click.command("cancel")
@click.argument("runs", nargs=-1, required=True)
def cancel_command(runs: tuple[str, ...]) -> None:
    """Cancel RUNS and the baselines that no other run needs, and wait until they have ended."""
    chosen = [open_run(run) for run in runs]
    cancelled = [ended for run in chosen for ended in run.cancel()]
    for run in {run.id: run for run in (*chosen, *cancelled)}.values():
        click.echo(f"{run.id} {run.wait().state}")


@click.command("rm")
@click.argument("runs", nargs=-1, required=True)
@click.option("--purge", is_flag=True, help="Also delete the files; this cannot be undone.")
@click.option("--undo", is_flag=True, help="Restore deleted RUNS, given by their full ids.")
def rm_command(runs: tuple[str, ...], purge: bool, undo: bool) -> None:
    """Delete RUNS. Without --purge, the runs are hidden but their files are kept."""
    if undo:
        for hidden in [open_exact(run) for run in runs]:
            hidden.restore()
            click.echo(f"{hidden.id} restored")
        return
    for chosen in [open_run(run) for run in runs]:
        if purge:
            chosen.purge()
        else:
            chosen.delete()
        click.echo(f"{chosen.id} deleted")


@click.command("gc")
def gc_command() -> None:
    """Remove the batches of `compare_splits` that no run refers to any more, such as after `rm --purge`.

    Batches of the last hour stay, since their runs may not be submitted yet.
    """
    from workbench.api.batches import remove_unused_batches

    count, num_bytes = remove_unused_batches()
    click.echo(f"removed {'1 batch' if count == 1 else f'{count} batches'}, {num_bytes / 2**20:.1f} MiB")


@click.command("label")
@click.argument("run")
@click.option("--name", help="Name of the run.")
@click.option("--tag", "tags", multiple=True, help="Tag, replacing the current tags; repeat for several, '' for none.")
@click.option("--note", help="Note about the run.")
def label_command(run: str, name: str | None, tags: tuple[str, ...], note: str | None) -> None:
    """Set the name, tags and note of RUN."""
    if name is None and note is None and not tags:
        raise UsageError("label needs something to set: --name NAME, --tag TAG or --note NOTE")
    opened = open_run(run)
    opened.relabel(name=name, tags=tags or None, note=note)
    click.echo(opened.id)


@click.command("import")
@click.argument("source", type=click.Path(path_type=Path, exists=True))
def import_command(source: Path) -> None:
    """Import runs from SOURCE, a zip file of run directories (such as the dashboard creates) or the directory of a store."""
    try:
        new, existing = import_runs(source)
    except UsageError as error:
        raise UsageError(f"{source}: {error}") from None
    for imported in new:
        click.echo(f"{imported.id} imported")
    for run_id in existing:
        click.echo(f"{run_id} is already in the store")
