"""This machine: its environment, and its calibrated compute, memory and communication speed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.api.progress import shown_work
from workbench.hardware.staleness import staleness
from workbench.hardware.store import read_calibration, write_calibration
from workbench.launch.environment import environment, num_cores
from workbench.messages import counted
from workbench.store.directory import home

if TYPE_CHECKING:
    import pandas as pd

    from workbench.api.stored_run import Run

__all__ = [
    "achieved_bandwidth",
    "calibrate",
    "calibration",
    "environment",
    "fork_server_socket",
    "measured_communication",
    "stale_calibration",
]


def calibrate(
    group_sizes: Sequence[int] = (), report: Callable[[str, dict[str, Any]], None] = lambda table, row: None
) -> dict[str, Any]:
    """Measures the matrix products, memory and communication of this machine, saves the result in the store and returns it.
    Communication is measured in groups of ``group_sizes`` workers; by default of 2 and, with at least 4 cores, of 4.
    ``report(table, row)`` is called with each measurement."""
    from workbench.hardware.calibrate import measure

    sizes, num_measured = group_sizes or (2, 4)[: 2 if num_cores() >= 4 else 1], 0
    with shown_work("calibration") as show:

        def reported(table: str, row: dict[str, Any]) -> None:
            nonlocal num_measured
            num_measured += 1
            show(f"{table} · {counted(num_measured, 'measurement')}")
            report(table, row)

        calibration = measure(sizes, reported)
    write_calibration(home(), calibration)
    return calibration


def calibration() -> dict[str, Any] | None:
    """Returns the stored calibration; None if there is none for this machine and version of torch."""
    return read_calibration(home(), environment())


def measured_communication(calibration: dict[str, Any]) -> pd.DataFrame:
    """Returns the measured operations of a calibration with the time of the fitted link for each."""
    from workbench.analysis.calibration import communication

    return communication(calibration)


def achieved_bandwidth(run: Run) -> pd.DataFrame:
    """Returns the bandwidth of the operations of a run and of the calibrated links of the same machine and version of torch, if
    the store has them. An imported run is not compared with the machine of the viewer."""
    from workbench.analysis.calibration import achieved

    return achieved(run, read_calibration(home(), run.directory.environment()))


def stale_calibration(run: Run) -> str:
    """Returns why the stored calibration of the run's machine may not hold for the run, one clause; empty if it does or there is
    none."""
    environment = run.directory.environment()
    stored = read_calibration(home(), environment)
    return staleness(stored, environment, run.record) if stored else ""


def fork_server_socket() -> Path | None:
    """Returns the Unix socket of the fork server; None if its path would be too long."""
    from workbench.launch.start import socket_path

    return socket_path()
