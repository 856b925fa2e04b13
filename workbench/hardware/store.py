"""Reads and writes the calibration of this machine in the store: ``calibration.json``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from workbench.errors import UsageError
from workbench.store.records import Environment

JOB = "calibration_job.json"
"""Name of the file that tells the workers of a calibration what they measure."""

LOAD = "load"
"""Table of the last event of each worker of a calibration: its ``CpuLoad`` while it measured."""

SCHEMA_VERSION = 1
IDENTITY = ("machine", "cpu", "num_cores", "torch_version")
"""Fields of the environment that must match for a calibration to apply."""


def write_calibration(store: Path, calibration: dict[str, Any]) -> None:
    """Replaces the calibration of the store."""
    try:
        store.mkdir(parents=True, exist_ok=True)
        draft = store / f".calibration.{os.getpid()}"
        draft.write_text(json.dumps(calibration), encoding="utf-8")
        draft.replace(store / "calibration.json")
    except OSError as error:
        raise UsageError(
            f"cannot write to the store {store} ({error.strerror}); set WORKBENCH_HOME to another directory"
        ) from None


def read_calibration(store: Path, environment: Environment) -> dict[str, Any] | None:
    """Returns the calibration of this machine and torch version; None if there is none."""
    path = store / "calibration.json"
    try:
        calibration: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        raise UsageError(f"{path} is damaged; replace it with `workbench calibrate`") from None
    if calibration.get("schema_version", 1) > SCHEMA_VERSION:
        version = calibration["schema_version"]
        raise UsageError(f"{path} has schema_version {version}, but this workbench reads versions up to {SCHEMA_VERSION}")
    measured_on = calibration.get("environment", {})
    return calibration if all(measured_on.get(key) == getattr(environment, key) for key in IDENTITY) else None
