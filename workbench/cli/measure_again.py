"""``workbench measure-again``: repeats what other programs disturbed, once the machine is quiet."""

from __future__ import annotations

import click

from workbench.api.store import open_run
from workbench.cli.output import runs_document


@click.command("measure-again")
@click.argument("runs", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help='Print one JSON document on stdout: {"runs": [row, …]}.')
def measure_again_command(runs: tuple[str, ...], as_json: bool) -> None:
    """Measure RUNS again that other programs disturbed, and disturbed baselines, once the machine is quiet."""
    opened_runs = [open_run(run) for run in runs]

    from workbench.api.remeasurement import measure_again, pending
    from workbench.cli.run import check_results, ended_on_interrupt, follow, report

    runs_in_place = measure_again(opened_runs)  # interrupted, it ends what it has submitted
    new_runs = [run for run in runs_in_place if run.is_new]
    with ended_on_interrupt(new_runs):
        for run in pending(runs_in_place):
            follow(run, as_json)
    rows = [run.row() for run in runs_in_place]
    if as_json:
        click.echo(runs_document(rows))
    else:
        if [run.id for run in runs_in_place] == [run.id for run in opened_runs]:
            click.echo("Nothing was disturbed; no run was started.", err=True)
        report(runs_in_place, rows)
    check_results([run.row() for run in new_runs], [])
