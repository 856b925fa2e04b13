"""``workbench attach``: shows the progress and the result of a run that was started elsewhere, as ``workbench run`` does."""

from __future__ import annotations

import click

from workbench.api.store import open_run
from workbench.cli.output import runs_document


@click.command("attach")
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help='Print one JSON document on stdout: {"runs": [row, …]}.')
def attach_command(run: str, as_json: bool) -> None:
    """Show the progress of RUN and of its baselines, and the result. Ctrl-C detaches; the run continues."""
    from workbench.cli.run import check_results, follow, report, with_baselines

    attached = open_run(run)
    runs = with_baselines(attached)
    try:
        click.echo(f"workbench: attached to {attached.id}; Ctrl-C detaches", err=True)
        for each in runs:
            follow(each, as_json)
    except KeyboardInterrupt:
        click.echo(f"workbench: detached from {attached.id}, which continues; `workbench cancel {attached.id}` ends it", err=True)
        return
    rows = [each.row() for each in runs]
    if as_json:
        click.echo(runs_document(rows))
    else:
        report(runs, rows)
    check_results([attached.row()], [])
