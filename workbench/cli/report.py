"""``workbench report``: writes a report of one or several runs to a file."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("report")
@click.argument("runs", nargs=-1, required=True)
@click.option(
    "--to",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.html|FILE.md",
    help="File to write; the suffix determines the format.",
)
def report_command(runs: tuple[str, ...], to: Path) -> None:
    """Write a report of RUNS: configuration, figures, findings, charts and environment.

    HTML is one self-contained file; Markdown stores its charts in a folder next to the file.
    """
    from workbench.api import open_run
    from workbench.cli.output import written
    from workbench.export.report.write import write_report

    opened_runs = [open_run(run) for run in runs]
    with written("report --to"):
        for path in write_report(opened_runs, to):
            click.echo(path)
