"""What this machine is, and what it computes and communicates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.hardware.store import read_calibration, write_calibration
from workbench.launch.environment import environment, num_cores
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
]


def calibrate(
    group_sizes: Sequence[int] = (), report: Callable[[str, dict[str, Any]], None] = lambda table, row: None
) -> dict[str, Any]:
    """Measures this machine (matrix products, memory, communication in groups of these sizes, by default 2 and, where there are
    as many cores, 4) and keeps it in the store; ``report(table, row)`` is called with each measurement."""
    from workbench.hardware.calibrate import measure

    sizes = group_sizes or (2, 4)[: 2 if num_cores() >= 4 else 1]
    calibration = measure(sizes, report)
    write_calibration(home(), calibration)
    return calibration


def calibration() -> dict[str, Any] | None:
    """What the store knows of this machine; None before ``calibrate``, or where machine or torch are others than then."""
    return read_calibration(home(), environment())


def measured_communication(calibration: dict[str, Any]) -> pd.DataFrame:
    """Each measured operation of a calibration beside the time of its fitted link."""
    from workbench.hardware.frames import communication

    return communication(calibration)


def achieved_bandwidth(run: Run) -> pd.DataFrame:
    """The bandwidth of a run's operations beside that of the calibrated links of its own machine and torch, where the store
    knows them: an imported run is not compared with the machine of the viewer."""
    from workbench.hardware.frames import achieved

    return achieved(run, read_calibration(home(), run.directory.environment()))


def fork_server_socket() -> Path | None:
    """The Unix socket of the fork server; None where its path would be too long."""
    from workbench.launch.start import socket_path

    return socket_path()
