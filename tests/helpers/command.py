"""The command line inside the test's own process: without starting Python anew, which takes most of a small command's time."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from unittest import mock

from workbench.cli.main import main


def workbench(store: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """What ``workbench ARGS`` prints on either stream, and its exit code. For commands that start no run."""
    stdout, stderr, code = io.StringIO(), io.StringIO(), 0
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    with (
        mock.patch.object(sys, "argv", ["workbench", *args]),
        mock.patch.dict(os.environ, {"WORKBENCH_HOME": str(store)}),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return subprocess.CompletedProcess(["workbench", *args], code, stdout.getvalue(), stderr.getvalue())
