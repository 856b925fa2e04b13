"""Starts a run's owner, detached from the front end: through the fork server, or as a plain process."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from workbench.launch.interpreter import module_command, same_packages
from workbench.store.run_directory import RunDirectory

OWNER = "workbench.launch.owner"
_SERVER = Path(__file__).with_name("fork_server.py")
_START_S = 60.0


def start(run: RunDirectory, use_server: bool = True) -> None:
    """Starts the owner and returns; the run goes on whatever becomes of this process."""
    if use_server and sys.platform == "linux" and _request(run):
        return
    with run.log_path("owner").open("ab") as log:
        subprocess.Popen(
            module_command(OWNER, str(run.path.resolve())),
            env=same_packages(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def socket_path() -> Path:
    """Where the server for this interpreter and this torch listens; another torch is another server."""
    identity = [str(Path(sys.executable).resolve()), sys.prefix, version("torch"), _SERVER.read_text(encoding="utf-8")]
    directory = Path(tempfile.gettempdir()) / f"workbench-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    assert directory.stat().st_uid == os.getuid(), f"{directory} belongs to somebody else"
    return directory / f"{hashlib.sha256(repr(identity).encode()).hexdigest()[:16]}.sock"


def _request(run: RunDirectory) -> bool:
    """Asks the server to fork the owner; False when there is no server to be had."""
    request = {
        "module": OWNER,
        "argv": [str(run.path.resolve())],
        "env": dict(os.environ),
        "cwd": str(Path.cwd()),
        "sys_path": [path or str(Path.cwd()) for path in sys.path],
        "log": str(run.log_path("owner").resolve()),
    }
    with _connect() or socket.socket() as connection:
        try:
            connection.sendall(json.dumps(request).encode() + b"\n")
            return bool(connection.makefile().readline())
        except OSError:
            return False


def _connect() -> socket.socket | None:
    """A connection to the server, which is started when there is none."""
    path = socket_path()
    deadline, server = time.monotonic() + _START_S, None
    while time.monotonic() < deadline:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(path))
            return connection
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
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
