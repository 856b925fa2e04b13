"""``workbench calibrate``: measures the compute, memory and communication speed of this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from workbench.errors import UsageError
from workbench.messages import counted

CHARTS = (".svg", ".png", ".html")
_POOR_FIT = 0.3
"""Relative error above which a fit is reported: the link then says little about the time of the next message."""


@click.command("calibrate")
@click.option(
    "--workers", "group_sizes", multiple=True, type=click.IntRange(2), help="Size of a process group to measure; can be repeated."
)
@click.option("--json", "as_json", is_flag=True, help="Print the calibration as one JSON document on stdout.")
@click.option(
    "--chart",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a chart of time against payload to this .svg, .png or .html file.",
)
def calibrate_command(group_sizes: tuple[int, ...], as_json: bool, chart: Path | None) -> None:
    """Measure the matrix products, memory bandwidth and communication of this machine, and save the result in the store.

    Takes about a minute. By default, communication is measured in groups of 2 workers, and of 4 if there are at least 4 cores.
    """
    if chart is not None and chart.suffix not in CHARTS:
        raise UsageError(f"--chart: {chart} must end in one of {', '.join(CHARTS)}")
    from workbench.api import calibrate
    from workbench.cli.terminal import Terminal

    with Terminal(stderr=True).status("waiting for devices") as status:
        calibration = calibrate(group_sizes, lambda table, row: status.update(f"{table}: {_what(row)}"))
    if as_json:
        click.echo(json.dumps(calibration))
    else:
        _report(calibration)
    if chart is not None:
        from workbench.api.hardware import measured_communication
        from workbench.charts.calibration import communication_chart

        communication_chart(measured_communication(calibration)).save(chart)


def _what(row: dict[str, Any]) -> str:
    """Returns a description of a measurement, without its result."""
    operation = row.get("operation")
    if operation is None:
        return f"{row.get('precision') or row['kind']}, {counted(row['num_threads'], 'thread')}"
    return f"{operation.replace('_', '-')} of {_size(row['payload_bytes'])}, {row['group_size']} workers"


def _report(calibration: dict[str, Any]) -> None:
    from rich.table import Table

    from workbench.cli.render import whole
    from workbench.cli.terminal import Terminal

    console, matmul, memory = Terminal(), calibration["matmul"], calibration["memory"]
    precisions, kinds = list(dict.fromkeys(row["precision"] for row in matmul)), ("copy", "triad")
    heads = [f"matmul {precision}\nGFLOP/s" for precision in precisions] + [f"{kind}\nGB/s" for kind in kinds]
    table = Table("threads\n", box=None, header_style="bold")
    for head in heads:
        table.add_column(head, justify="right")
    for n in dict.fromkeys(row["num_threads"] for row in matmul):
        values = [row["flops_per_s"] for row in matmul if row["num_threads"] == n]
        values += [row["bytes_per_s"] for row in memory if row["num_threads"] == n]
        table.add_row(str(n), *(f"{value / 1e9:.1f}" for value in values))
    whole(console, table)
    sizes = sorted({row["payload_bytes"] for row in calibration["communication"]})
    columns = [sizes[0], *sizes[3::2]]
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("operation\n", no_wrap=True)
    table.add_column("workers\n", justify="right")
    for head in (*(f"{_size(size)}\nms" for size in columns), "latency\nµs", "GB/s\n", "fit\n±%"):
        table.add_column(head, justify="right", no_wrap=True)
    for fit in calibration["links"]:
        times = {
            row["payload_bytes"]: row["time_s"]
            for row in calibration["communication"]
            if (row["operation"], row["group_size"]) == (fit["operation"], fit["group_size"])
        }
        bandwidth = "–" if fit["bandwidth_bytes_per_s"] is None else f"{fit['bandwidth_bytes_per_s'] / 1e9:.2f}"
        figures = f"{fit['latency_s'] * 1e6:.0f}", bandwidth, f"{fit['residual']:.0%}".rstrip("%")
        name = fit["operation"].replace("_", "-")
        table.add_row(name, str(fit["group_size"]), *(f"{times[size] * 1e3:.3g}" for size in columns), *figures)
    console.print()
    whole(console, table)
    console.print(
        "\nLatency and GB/s describe the link on which the ring algorithm would take the measured times (ms); ±% is the relative"
        " root mean square error of the fit. The store keeps the result; runs with an emulated link are checked against it.",
    )
    if poor := [fit for fit in calibration["links"] if fit["residual"] > _POOR_FIT]:
        worst = max(poor, key=lambda fit: fit["residual"])
        console.print(
            f"{len(poor)} of {len(calibration['links'])} fits have an error of more than {_POOR_FIT:.0%}; the largest is"
            f" {worst['residual']:.0%}, for {worst['operation']} of {worst['group_size']} workers. Use the times, not latency"
            " and bandwidth, or calibrate again while the machine is idle.",
        )


def _size(num_bytes: int) -> str:
    return f"{num_bytes // 1024} KiB" if num_bytes < 2**20 else f"{num_bytes // 2**20} MiB"
