"""The command line as a process of its own, for commands that start runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-m", "workbench.cli.main"]


def workbench(store: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "WORKBENCH_HOME": str(store), **env}
    return subprocess.run(
        [*COMMAND, *args],
        capture_output=True,
        text=True,
        env=environment,
        stdin=subprocess.DEVNULL,
    )


def started(store: Path, *args: str) -> subprocess.Popen[bytes]:
    """A command that goes on when this returns."""
    environment = {**os.environ, "WORKBENCH_HOME": str(store)}
    return subprocess.Popen([*COMMAND, *args], env=environment, stderr=subprocess.PIPE)


def wait_until(condition: Callable[[], bool]) -> None:
    """For as long as the test may take."""
    while not condition():
        time.sleep(0.02)


def rows(result: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return list(json.loads(result.stdout)["runs"])
