"""``workbench notebooks``: lists and copies the course, for installations without the repository."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click

import workbench
from workbench.cli.output import written
from workbench.errors import UsageError
from workbench.messages import counted

COURSE = Path(workbench.__path__[0]) / "course"
"""Directory of the course notebooks: in a checkout a link to ``notebooks/``, in a wheel a copy."""


@click.command("notebooks")
@click.option(
    "--to",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory to copy the notebooks and their solutions to; created if it does not exist.",
)
def notebooks_command(to: Path | None) -> None:
    """List the course notebooks, or copy them to a directory. Existing files are never overwritten."""
    notebooks = sorted(COURSE.glob("*.ipynb"))
    if to is None:
        for path in notebooks:
            click.echo(f"{path.name:<34}  {title(path)}")
        return
    files = [*notebooks, COURSE / "solutions.py"]
    if existing := [path.name for path in files if (to / path.name).exists()]:
        raise UsageError(f"--to: {to} already contains {', '.join(existing)}; use another directory or move these files")
    with written("notebooks"):
        to.mkdir(parents=True, exist_ok=True)
        for path in files:
            shutil.copyfile(path, to / path.name)
    click.echo(f"{counted(len(notebooks), 'notebook')} copied; open with: jupyter lab {to}")


def title(path: Path) -> str:
    """Returns the first heading of a notebook; empty if it has none."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    lines = (line for cell in cells if cell["cell_type"] == "markdown" for line in cell["source"])
    return next((line.lstrip("# ").rstrip() for line in lines if line.startswith("# ")), "")
