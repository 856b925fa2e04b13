"""What tests share: a fork server of their own, of which none is left behind, and a browser."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

FAILED = pytest.StashKey[bool]()


@pytest.hookimpl
def pytest_configure() -> None:
    """torch, not imported yet, will compute on one thread, as in workers: tests run side by side, and threads that wait for each
    other on cores that are taken spin meanwhile."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def _signals_are_not_ignored() -> None:
    """A shell starts what runs in the background with SIGINT ignored, and nohup with SIGHUP; processes inherit that, and the
    commands that the tests interrupt would not end."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def _own_fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Temporary files, sockets and the device queue of the tests and of the commands they start lie below a directory of the
    session (of each, where pytest-xdist runs several side by side); the server ends with it."""
    directory: Path = tmp_path_factory.mktemp("tmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(directory))
        patch.delenv("XDG_RUNTIME_DIR", raising=False)
        patch.setattr(tempfile, "tempdir", None)  # read anew from TMPDIR
        patch.setenv("WORKBENCH_DEVICE_QUEUE", str(directory / "devices"))
        patch.setenv("WORKBENCH_MAX_OTHER_LOAD_CORES", "1e9")  # tests run side by side: what they measure is always disturbed
        yield
    _kill(directory)


def _kill(directory: Path, programs: tuple[str, ...] = ("",)) -> None:
    """Ends the processes that were given a path below the directory, of all programs or of these."""
    for process in psutil.process_iter(["cmdline"]):
        arguments = process.info["cmdline"] or []
        if any(part.startswith(str(directory)) for part in arguments) and any(part.endswith(programs) for part in arguments):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
                process.wait()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.stash[FAILED] = report.failed or item.stash.get(FAILED, False)
    return report


@pytest.fixture(autouse=True)
def _nothing_is_left_of_a_failed_test(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Its runs would keep the devices from all tests after it."""
    yield
    if request.node.stash.get(FAILED, False):
        _kill(tmp_path_factory.getbasetemp(), ("fork_server.py", "workbench.launch.supervisor"))


@pytest.fixture(autouse=True)
def _main_stays() -> Iterator[None]:
    """AppTest puts the page in the place of ``__main__``, which each worker process then runs as it starts: a case of half a
    second takes five."""
    main = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = main


@pytest.fixture(scope="module")
def opened() -> Iterator[Any]:
    """Chromium."""
    pytest.importorskip("playwright")
    from workbench.testing.browser import browser

    with browser() as chromium_:
        yield chromium_


@pytest.fixture
def page(opened: Any) -> Iterator[Any]:
    """A page of it, which asks nobody but this machine."""
    context = opened.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(60_000)
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    yield context.new_page()
    context.close()
    assert asked
    assert not [url for url in asked if not re.match(r"(http://127\.0\.0\.1|data:|blob:|about:)", url)], "it works offline"
