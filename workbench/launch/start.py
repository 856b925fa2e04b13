"""Starts the supervisor of a run, detached from the front end: through the fork server, or as a plain process."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from workbench.interpreter import module_command, same_packages
from workbench.launch.device_queue import Ticket
from workbench.launch.fork_server import peer_uid
from workbench.store.directory import RunDirectory
from workbench.store.processes import this_origin

SUPERVISOR = "workbench.launch.supervisor"
_SERVER = Path(__file__).with_name("fork_server.py")
_START_S = 60.0
LONGEST_SOCKET_PATH = 107
"""Bytes: ``sun_path`` of unix(7) without the zero that ends it."""
_SHORT_DIRECTORY = "/tmp"


def start(run: RunDirectory, use_server: bool = True, ticket: Ticket | None = None) -> None:
    """Starts the supervisor, which takes over the run's ticket, and returns; the run continues when this process ends."""
    if use_server and sys.platform == "linux":
        if _request(run, ticket):
            return
        if not (status := run.status()).state.is_terminal:  # the time to start begins again
            run.write_status(replace(status, submitted=this_origin()))
    files = [ticket.file] if ticket else []
    with run.supervisor_log_path.open("ab") as log:
        subprocess.Popen(
            module_command(SUPERVISOR, *_arguments(run, ticket), *map(str, files)),
            pass_fds=files,
            env=same_packages(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _arguments(run: RunDirectory, ticket: Ticket | None) -> list[str]:
    """Returns the arguments of the supervisor but the last, which is the number of the ticket's open file."""
    return [str(run.path.resolve()), *([str(ticket.path)] if ticket else [])]


def socket_path() -> Path | None:
    """Returns the socket of the fork server for this interpreter and version of torch.

    It is in a directory that only this user may enter: in XDG_RUNTIME_DIR, else in TMPDIR, else in /tmp, the first whose path is
    short enough for a Unix socket. None if there is none: runs then start without the server.
    """
    identity = [str(Path(sys.executable).resolve()), sys.prefix, version("torch"), _SERVER.read_text(encoding="utf-8")]
    name = f"{hashlib.sha256(repr(identity).encode()).hexdigest()[:16]}.sock"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    parents = ([Path(runtime, "workbench")] if runtime and Path(runtime).is_absolute() else []) + [
        Path(parent, f"workbench-{os.getuid()}") for parent in (tempfile.gettempdir(), _SHORT_DIRECTORY)
    ]
    paths = (directory / name for directory in parents if len(os.fsencode(directory / name)) <= LONGEST_SOCKET_PATH)
    return next((path for path in paths if _is_private(path.parent)), None)


def _is_private(directory: Path) -> bool:
    """Whether a directory, which is made if there is none, is one of this user that nobody else may enter; no link to one."""
    with contextlib.suppress(OSError):
        directory.mkdir(mode=0o700, exist_ok=True)
        status = directory.lstat()
        return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
    return False


def _request(run: RunDirectory, ticket: Ticket | None) -> bool:
    """Requests the fork server to start the supervisor; returns whether it did."""
    request = {
        "module": SUPERVISOR,
        "argv": _arguments(run, ticket),
        "env": dict(os.environ),
        "cwd": str(Path.cwd()),
        "sys_path": [path or str(Path.cwd()) for path in sys.path],
        "log": str(run.supervisor_log_path.resolve()),
        "cores": sorted(os.sched_getaffinity(0)),
        "niceness": os.nice(0),
    }
    with _connect() or socket.socket() as connection:
        try:
            line = json.dumps(request).encode() + b"\n"
            socket.send_fds(connection, [line[:1]], [ticket.file] if ticket else [])
            connection.sendall(line[1:])
            connection.settimeout(_START_S)  # a server that is stopped never answers
            return bool(connection.makefile().readline())
        except OSError:
            return False


def _connect() -> socket.socket | None:
    """Connects to the fork server, which is started if there is none; None if that fails."""
    path = socket_path()
    if path is None:
        return None
    deadline, server = time.monotonic() + _START_S, None
    while time.monotonic() < deadline:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(path))
            if peer_uid(connection) == os.getuid():
                return connection
            connection.close()
            return None
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
        except OSError:
            connection.close()
            return None
        if server is None:
            server = subprocess.Popen(
                [sys.executable, "-P", str(_SERVER), str(path)],
                env={**os.environ, "OMP_NUM_THREADS": "1"},  # one thread, so that forking it is safe
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        elif server.poll() not in (None, 0):
            return None
        time.sleep(0.005)
    return None
