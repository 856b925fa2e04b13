"""``workbench show``: one run, with what the formulas expected beside what was measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from workbench.store import listing
from workbench.store.run_directory import RunDirectory, home


@click.command("show")
@click.argument("run")
def show_command(run: str) -> None:
    """Everything about RUN: figures, expected beside measured, each worker, why it failed."""
    from rich.console import Console
    from rich.markup import escape

    from workbench.cli import render

    directory = listing.find(home(), run)
    row, console = listing.row(directory), Console()
    console.print(f"[bold]{directory.id}[/bold]  {row['state']}  {row['name'] or ''}")
    console.print(
        f"{row['model']} on {row['dataset']}, {row['split']}, {row['num_workers']} × {row['device']} ({row['backend']})"
    )
    if differences := _differences(directory):
        console.print(f"not by default: {escape(', '.join(differences))}", highlight=False)
    record = directory.record()
    if record["num_workers"] * record["threads_per_worker"] > record["num_cores"]:
        console.print(f"[yellow]oversubscribed:[/yellow] more workers × threads than the {record['num_cores']} cores")
    if row["state"] != "finished":
        render.failure(console, directory.id, directory.error(), str(directory.status().get("message", "")))
        return
    console.print(render.comparison([row], {}))
    if parity := _parity(row, directory.summary() or {}):
        console.print(f"parity: {parity}", highlight=False)
    parts = ("compute_s", "exposed_communication_s", "idle_s", "optimizer_s", "other_s")
    console.print("step: " + ", ".join(f"{p.removesuffix('_s').replace('_', ' ')} {render.seconds(row[p])}" for p in parts))
    _transfers(console, directory)
    _workers(console, directory)


def _parity(row: dict[str, Any], summary: dict[str, Any]) -> str:
    """Whether the split computes what one worker computes, and how nearly; nothing where it was not checked."""
    error, allowed = row["parity_max_error"], summary.get("parity_allowed")
    if row["parity_ok"] is None and error is None:
        return ""
    verdicts = {
        True: "equals one worker",
        False: "[red]differs from one worker[/red]",
        None: "differs from one worker on purpose",
    }
    size = "infinite" if error is None else f"{error:.1e} in {summary.get('parity_tensor')}"
    return f"{verdicts[row['parity_ok']]}, largest error {size}" + ("" if allowed is None else f", allowed {allowed:.1e}")


def _differences(directory: RunDirectory) -> list[str]:
    """Where the spec differs from the defaults of its model and dataset, as paths of the file."""
    from workbench.errors import SpecError
    from workbench.spec import RunSpec

    try:
        spec = directory.spec()
        default = RunSpec(model=spec.model.name, dataset=spec.dataset.name).as_dict()
    except SpecError:
        return []  # a plugin that is not here today; the run's figures can be shown all the same
    shown_above = ("name", "launch.device")
    own = {path: value for path, value in _flat(spec.as_dict()) if path not in shown_above}
    defaults = dict(_flat(default))
    return [f"{path}={value}" for path, value in own.items() if path not in defaults or defaults[path] != value]


def _flat(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _transfers(console: Any, directory: RunDirectory) -> None:
    from rich.table import Table

    from workbench.store.summary import measured_transfers

    summary = directory.summary() or {}
    expected: dict[tuple[str, str, str], list[float]] = {}
    for t in directory.record()["expected"]["transfers"]:
        entry = expected.setdefault((t["operation"], t["axis"], t["phase"]), [0, 0])
        entry[0] += t["count"]
        entry[1] += t["count"] * t["payload_bytes"]
    measured = {(t["operation"], t["axis"], t["phase"]): t for t in measured_transfers(summary["workers"])}
    if not expected and not measured:
        return
    table = Table(
        "operation",
        "axis",
        "phase",
        "expected bytes",
        "measured bytes",
        "operations",
        box=None,
        title_justify="left",
    )
    for key in sorted({*expected, *measured}):
        want, got = expected.get(key, [0, 0])[1], measured.get(key, {"payload_bytes": 0, "count": 0})
        table.add_row(*key, f"{want:,}", f"{got['payload_bytes']:,.0f}", f"{got['count']:g}")
    console.print("\nmoved per step, by formula and measured:")
    console.print(table)


def _workers(console: Any, directory: RunDirectory) -> None:
    from rich.table import Table

    from workbench.cli.render import mebibytes

    heads = (
        "worker",
        "parameters expected",
        "measured",
        "gradients",
        "optimizer state",
        "peak memory",
        "resident peak",
    )
    table = Table(*heads, box=None)
    expected = directory.record()["expected"]["parameters_per_worker"]
    for rank, worker in enumerate((directory.summary() or {})["workers"]):
        sizes = (worker[k] for k in ("gradient_bytes", "optimizer_state_bytes", "peak_memory_bytes", "resident_peak_bytes"))
        table.add_row(str(rank), f"{expected[rank]:,}", f"{worker['parameters']:,}", *map(mebibytes, sizes))
    console.print("\neach worker:")
    console.print(table)
