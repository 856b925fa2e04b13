"""The fork server: a resident process with torch imported that forks supervisors, so that a start takes milliseconds.

Started as a file (``python -P fork_server.py SOCKET``). It imports torch and other installed packages, but neither the workbench
nor the user's modules, so that an edited file is never stale. Each connection sends one request, a line of JSON with the keys
module, argv, env, cwd, sys_path, log, cores and niceness, so that the child runs where and as its client would run it, whoever
started the server. A file that is sent with the first byte (SCM_RIGHTS of unix(7)) is handed on open, and its number is added to
argv. The child answers with its process id once it has taken these over.
"""

import contextlib
import fcntl
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
from typing import Any, NoReturn

IDLE_S = 30 * 60
GET_GOING_S = 0.5  # no imports for so long after a start, which they would slow down
REQUEST_S = 5.0  # a client that connects and sends nothing must not block the others
FIRST = ("torch", "psutil")
"""Modules that every supervisor and worker needs, imported before the first request is answered. Names, since linters
remove unused imports."""
LATER = (
    "torch.distributed.tensor.parallel",
    "torch.distributed.pipelining",
    "torch.utils.flop_counter",
    "pydantic.root_model",  # pydantic itself loads piece by piece
    "pydantic.types",
    "tomli_w",
)
"""Modules that most runs need, imported one at a time while there are no requests. Without pyarrow, which starts a thread."""


def serve(path: str) -> None:
    lock = os.open(path + ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # another server was faster
    if os.path.exists(path):  # noqa: PTH110 - pathlib is not worth its import here
        os.unlink(path)  # noqa: PTH108
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)  # clients queue from here on, while torch is imported
    gc.disable()  # imported objects stay, and a collection in a child would copy every page that it visits
    for name in FIRST:
        importlib.import_module(name)

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    modules, timeout_s = list(LATER), 0.0
    while True:
        listener.settimeout(timeout_s if modules else IDLE_S)
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, TimeoutError):
            if not modules:
                os.unlink(path)  # noqa: PTH108
                return
            with contextlib.suppress(ImportError):  # another version of torch may lack one
                importlib.import_module(modules.pop(0))
            timeout_s = 0.0
            continue
        timeout_s = GET_GOING_S
        with connection:
            connection.settimeout(REQUEST_S)
            files, line = list[int](), ""
            try:
                with contextlib.suppress(OSError):  # the client stalls or died
                    first, files, _, _ = socket.recv_fds(connection, 1, 1)
                    line = first.decode() + connection.makefile().readline()
                if line.endswith("\n"):  # else the client died while it wrote
                    request = json.loads(line)
                    if os.fork() == 0:
                        listener.close()
                        os.close(lock)
                        request["argv"] += map(str, files)
                        run_module(request, connection)
            finally:
                for file in files:  # here a lock would outlive its client
                    os.close(file)


def run_module(request: dict[str, Any], connection: socket.socket) -> NoReturn:
    """Runs the requested module in the child, as ``python -m`` does; never returns.

    A child that ends before its answer closes the connection: one in another mount namespace than its client, or one that may not
    use the client's cores or lower its niceness to the client's.
    """
    try:
        gc.freeze()
        gc.enable()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        os.environ.clear()
        os.environ.update(request["env"])
        os.chdir(request["cwd"])
        os.sched_setaffinity(0, request["cores"])
        os.nice(request["niceness"] - os.nice(0))
        sys.path[:] = request["sys_path"]
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        with connection, contextlib.suppress(OSError):  # the front end died; its run continues
            connection.sendall(json.dumps({"pid": os.getpid()}).encode() + b"\n")
        sys.argv = [request["module"], *request["argv"]]
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    except BaseException:  # noqa: BLE001 - the child must not return into the server's loop
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


if __name__ == "__main__":
    serve(sys.argv[1])
