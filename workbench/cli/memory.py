"""What ``workbench show`` says of memory: held by formula and measured, the peak by category, the largest tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

from workbench.cli.render import largest_tensors, mebibytes

if TYPE_CHECKING:
    from rich.console import Console

    from workbench.store.run_directory import RunDirectory

HELD = ("parameters", "gradients", "optimizer_state")


def memory(console: Console, directory: RunDirectory) -> None:
    """Three tables; of runs that were recorded before there were categories none."""
    workers = (directory.summary() or {})["workers"]
    if not all(worker.get("peak_memory_by_category") for worker in workers):
        return
    console.print("\nbytes that each worker holds after a step, by formula and measured:")
    console.print(_held(workers, directory.record()["expected"]["memory_per_worker"]))
    console.print("\nat each worker's peak, MiB:")
    console.print(_peaks(workers))
    largest = max(range(len(workers)), key=lambda rank: workers[rank]["peak_memory_bytes"])
    rows = [row for row in directory.table("peak_tensors").to_pylist() if row["rank"] == largest]
    console.print(
        f"\nthe largest tensors at the peak of worker {largest}, {workers[largest]['peak_memory_event']}:", highlight=False
    )
    console.print(largest_tensors(row for row in rows if row["step"] == rows[-1]["step"]))


def _held(workers: list[dict[str, Any]], expected: list[dict[str, Any]]) -> Table:
    """Beside what is held, the activations that are kept when a backward pass begins."""
    table = Table("worker", *HELD, "kept activations", box=None)
    for rank, (worker, formula) in enumerate(zip(workers, expected, strict=True)):
        pairs = [(formula[category], worker["held_memory_by_category"][category]) for category in HELD]
        pairs.append((formula["activations"], worker["kept_activation_bytes"]))
        table.add_row(str(rank), *(_both(*pair) for pair in pairs))
    return table


def _both(expected: int | None, measured: int | None) -> str:
    """``1,024 = 1,024``, or the two with what differs."""
    if measured is None:
        return "–"
    if expected is None:
        return f"no formula, {measured:,}"
    return (
        f"{expected:,} = {measured:,}" if expected == measured else f"{expected:,}, {measured:,} ({measured / expected - 1:+.1%})"
    )


def _peaks(workers: list[dict[str, Any]]) -> Table:
    categories = [c for c in workers[0]["peak_memory_by_category"] if any(w["peak_memory_by_category"][c] for w in workers)]
    table = Table("worker", *(c.replace("_", " ") for c in categories), "sum", "allocator's", box=None)
    for rank, worker in enumerate(workers):
        sizes = [worker["peak_memory_by_category"][category] for category in categories]
        other = worker.get("allocator_peak_bytes")
        difference = f" ({worker['peak_memory_bytes'] / other - 1:+.1%})" if other else ""
        cells = [mebibytes(size).removesuffix(" MiB") for size in (*sizes, worker["peak_memory_bytes"], other)]
        table.add_row(str(rank), *cells[:-1], cells[-1] + difference)
    return table
