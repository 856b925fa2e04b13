"""Live progress of one run on stderr: a bar in a terminal, a line a state elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from workbench.api import Run


def follow(run: Run, quiet: bool) -> None:
    """Shows the run until it has ended."""
    record = run.directory.record()
    name = f"{record['split']}" + (f", {record['threads_per_worker']} threads" if record["threads_per_worker"] > 1 else "")
    if quiet:
        run.wait()
        return
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=None, note=run.directory.status().get("message", ""))
        for event in run.follow():
            if event["event"] == "parity":
                progress.update(task, note="parity " + {True: "holds", False: "FAILED", None: "is lossy"}[event["ok"]])
            elif event["event"] == "step":
                loss = "" if event["loss"] is None else f"  loss {event['loss']:.3f}"
                progress.update(task, total=event["num_steps"], completed=event["step"] + 1, note=event["kind"] + loss)
        progress.update(task, note=run.state)
    if not console.is_terminal:
        console.print(f"{name}: {run.state}", highlight=False)
