"""Live progress of one run on stderr: a bar in a terminal, otherwise one line per state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from workbench.analysis.parity import event_text
from workbench.api.store import ParityEvent, StepEvent

if TYPE_CHECKING:
    from workbench.api import Run


def follow(run: Run, quiet: bool) -> None:
    """Shows the progress of the run until it has ended; if ``quiet``, only waits."""
    record = run.record
    name = f"{record.split}" + (f", {record.threads_per_worker} threads" if record.threads_per_worker > 1 else "")
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
    last_message = ""
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=None, note=run.message)
        for event in run.follow(with_silence=True):
            if event is None:
                message = run.message or run.state
                if message != last_message and run.state in ("queued", "starting"):
                    progress.update(task, note=message)
                    if not console.is_terminal:
                        console.print(f"{name}: {message}", highlight=False)
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
        console.print(f"{name}: {run.state}", highlight=False)
