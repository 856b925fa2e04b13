"""The tests start a fork server of their own and leave none behind."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest


@pytest.fixture(scope="session", autouse=True)
def _own_fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Commands started by the tests keep their sockets below a directory of the session; its server ends with it."""
    directory: Path = tmp_path_factory.mktemp("tmp")
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(directory)
    yield
    if before is None:
        del os.environ["TMPDIR"]
    else:
        os.environ["TMPDIR"] = before
    for process in psutil.process_iter(["cmdline"]):
        if any(part.startswith(str(directory)) for part in process.info["cmdline"] or []):
            process.kill()
            process.wait()


@pytest.fixture(autouse=True)
def _main_stays() -> Iterator[None]:
    """AppTest puts the page in the place of ``__main__``, which each worker process then runs as it starts: a case of half a
    second takes five."""
    main = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = main
