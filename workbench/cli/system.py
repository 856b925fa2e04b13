"""Commands on this installation: doctor, dashboard."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import click

import workbench
from workbench.api.store import home
from workbench.errors import UsageError
from workbench.messages import counted

_PACKAGES = ("torch", "numpy", "pydantic", "pyarrow", "pandas", "streamlit")


@click.command("doctor")
def doctor_command() -> None:
    """Show the versions, cores, memory, store and fork server that runs on this machine use. Starts and writes nothing."""
    import psutil

    from workbench.api.hardware import environment

    machine = environment()
    lines = {
        "workbench": machine.workbench_version,
        "python": f"{machine.python_version}  {sys.executable}",
        **{name: _version(name) for name in _PACKAGES},
        "platform": machine.platform,
        "processor": machine.cpu,
        "cores": f"{machine.num_cores} available to this process",
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "store": _store(home()),
        "fork server": _server(),
    }
    for name, value in lines.items():
        click.echo(f"{name:<12} {value}")


@click.command("dashboard", context_settings={"ignore_unknown_options": True})
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; 0.0.0.0 accepts connections from other machines.",
)
@click.option("--port", type=int, help="Port to listen on; the default is 8501 or the next free port.")
@click.option(
    "--model",
    "models",
    multiple=True,
    help="Your own model that the page Configure offers: PATH.py:CALLABLE, package.module:CALLABLE, hf:PATH/config.json or"
    " hf:TYPE; can be repeated. Whoever reaches the page can run it, with arguments of their choice.",
)
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    help="Your own data that the page Configure offers: a file, a folder or PATH.py:CALLABLE; can be repeated.",
)
@click.option("--loss", "losses", multiple=True, help="Your own loss for these models, PATH.py:CALLABLE; can be repeated.")
@click.argument("streamlit_options", nargs=-1, type=click.UNPROCESSED)
def dashboard_command(
    host: str,
    port: int | None,
    models: tuple[str, ...],
    datasets: tuple[str, ...],
    losses: tuple[str, ...],
    streamlit_options: tuple[str, ...],
) -> None:
    """Start the dashboard, which configures, follows and compares runs. Other options are passed to `streamlit run`."""
    if find_spec("streamlit") is None:
        raise UsageError("the dashboard requires streamlit, which is not installed: pip install streamlit")
    from workbench.api.offered import Offered

    os.environ.update(Offered(models, datasets, losses).environment())
    options = ["--server.address", host, *(["--server.port", str(port)] if port else []), *streamlit_options]
    sys.exit(serve([sys.executable, "-m", "streamlit", "run", str(served_app()), *options]))


def served_app() -> Path:
    """Returns the file that Streamlit serves; its settings are in the same directory."""
    return Path(workbench.__path__[0]) / "dashboard" / "served" / "app.py"


def serve(command: Sequence[str], patience_s: float = 5) -> int:
    """Runs a server until it ends, or this process is interrupted or terminated. Returns its exit status.

    When asked to stop, Streamlit waits without limit for connections on which a browser has not yet sent a request (uvicorn's
    ``timeout_graceful_shutdown`` is None), so a server that has not stopped after ``patience_s`` is killed.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    server = subprocess.Popen(command)
    try:
        return server.wait()
    except KeyboardInterrupt:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            server.wait(patience_s)
        return 0
    finally:
        server.kill()
        server.wait()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _store(store: Path) -> str:
    runs = store / "runs"
    count = sum(1 for _ in runs.iterdir()) if runs.is_dir() else 0
    nearest = next(path for path in (store, *store.absolute().parents) if path.exists())
    can_write = nearest.is_dir() and os.access(nearest, os.W_OK)
    return f"{store}  {counted(count, 'run')}, {'writable' if can_write else 'NOT writable'}"


def _server() -> str:
    """Returns the state of the fork server, found by connecting; the server closes a connection without a request at once."""
    from workbench.api.hardware import fork_server_socket

    path = fork_server_socket()
    if path is None:
        return "unavailable: the path of its Unix socket is too long in both TMPDIR and /tmp; runs start without it, more slowly"
    place = (
        ""
        if path.is_relative_to(tempfile.gettempdir())
        else f" in {path.parent}: the path of its Unix socket would be too long in TMPDIR"
    )
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1)
        try:
            connection.connect(str(path))
        except OSError:
            return f"not running; the next run starts it{place}"
    return f"running  {path}" + (" (the path of its Unix socket would be too long in TMPDIR)" if place else "")
