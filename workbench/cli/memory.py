"""The memory figures of ``workbench show``: expected and measured, the peak by category, the largest tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from workbench.analysis.formatting import mebibytes
from workbench.analysis.memory_limits import memory_limit
from workbench.cli.render import largest_tensors

if TYPE_CHECKING:
    from rich.console import Console

    from workbench.api import Run
    from workbench.api.store import WorkerFigures

HELD = ("parameters", "gradients", "optimizer_state")
HEADS = {
    "parameters": "para-\nmeters",
    "gradients": "gradi-\nents",
    "optimizer_state": "optim.\nstate",
    "activations": "activa-\ntions",
    "buffers": "buffers",
    "communication": "commu-\nnication",
    "workspace": "work-\nspace",
    "other": "other",
}
_LOOK: dict[str, Any] = {"box": None, "padding": (0, 1, 0, 0)}


def memory(console: Console, run: Run) -> None:
    """Prints three tables; none for runs that were recorded before memory had categories."""
    workers = run.summary.workers if run.summary else ()
    expected = run.record.expected.memory_per_worker
    if expected is None or not all(worker.peak_memory_by_category for worker in workers):
        return
    console.print("\nmemory per worker after a step, expected and measured, MiB:")
    console.print(_held(workers, expected))
    console.print("\npeak memory per worker by category, MiB:")
    console.print(_peaks(workers))
    console.print(str(memory_limit(run)))
    for rank, worker in enumerate(workers):
        if worker.fragmentation is not None:  # on GPU
            reserved = mebibytes(worker.reserved_peak_bytes)
            console.print(f"worker {rank}: {reserved} reserved, fragmentation {worker.fragmentation:.1%}")
    largest = max(range(len(workers)), key=lambda rank: workers[rank].peak_memory_bytes or 0)
    rows = [row for row in run.table("peak_tensors").to_pylist() if row["rank"] == largest]
    console.print(f"\nlargest tensors at the peak of worker {largest} ({workers[largest].peak_memory_event}):")
    console.print(largest_tensors(row for row in rows if row["step"] == rows[-1]["step"]))


def _held(workers: Sequence[WorkerFigures], expected: Sequence[dict[str, int | None]]) -> Table:
    """Returns the table of memory after a step, with the activations that are saved when a backward pass begins."""
    table = Table("worker", *(HEADS[category] for category in HELD), "activations\nsaved for backward", **_LOOK)
    for rank, (worker, formula) in enumerate(zip(workers, expected, strict=True)):
        held = worker.held_memory_by_category or {}
        pairs = [(formula[category], held.get(category)) for category in HELD]
        pairs.append((formula["activations"], worker.kept_activation_bytes))
        table.add_row(str(rank), *(_comparison_text(*pair) for pair in pairs))
    return table


def _comparison_text(expected: int | None, measured: int | None) -> str:
    """Returns ``3.34 = 3.34`` if the bytes are equal, else ``3.34, 3.40 (+1.80%)``."""
    if measured is None:
        return "–"
    if expected is None:
        return f"no formula, {_mebibytes(measured)}"
    if expected == measured:
        return f"{_mebibytes(expected)} = {_mebibytes(measured)}"
    difference = f" ({measured / expected - 1:+.2%})" if expected else ""
    return f"{_mebibytes(expected)}, {_mebibytes(measured)}{difference}"


def _peaks(workers: Sequence[WorkerFigures]) -> Table:
    categories = [c for c in HEADS if any((w.peak_memory_by_category or {}).get(c) for w in workers)]
    table = Table("worker", *(HEADS[category] for category in categories), "sum", "allocator\npeak", **_LOOK)
    for rank, worker in enumerate(workers):
        sizes = [(worker.peak_memory_by_category or {}).get(category, 0) for category in categories]
        peak, other = worker.peak_memory_bytes, worker.allocator_peak_bytes
        difference = f" ({peak / other - 1:+.1%})" if peak is not None and other else ""
        table.add_row(str(rank), *map(_mebibytes, sizes), _mebibytes(peak), _mebibytes(other) + difference)
    return table


def _mebibytes(size: int | None) -> str:
    """Formats bytes for a column in MiB, where units per figure would not fit into 80 characters."""
    return "–" if size is None else "<0.01" if 0 < size < 2**20 / 200 else f"{size / 2**20:.2f}"
