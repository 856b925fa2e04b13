"""The fork server: a resident process with torch imported that forks run owners, so that a start takes milliseconds.

Run as a file (``python -P fork_server.py SOCKET``): it imports torch and other people's packages, none of ours and none of
the user's, so an edited file is never stale. One request a connection, a line of JSON: module, argv, env, cwd, sys_path, log.
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
GET_GOING_S = 0.5  # what was just started has the machine to itself for so long
REQUEST_S = 5.0  # a client that connects and says nothing must not block the others
FIRST = ("torch", "psutil")
"""What every owner and worker needs, imported before the first request is answered. Names: linters take unused imports out."""
LATER = (
    "torch.distributed.tensor.parallel",
    "torch.distributed.pipelining",
    "torch.distributed._tools.mem_tracker",
    "pydantic.root_model",  # pydantic itself loads piece by piece
    "pydantic.types",
    "tomli_w",
)
"""What most runs need, imported one at a time while nobody asks for anything. Not pyarrow: it starts a thread."""


def serve(path: str) -> None:
    lock = os.open(path + ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # somebody else was faster
    if os.path.exists(path):  # noqa: PTH110 - pathlib is not worth its import here
        os.unlink(path)  # noqa: PTH108
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)  # clients queue from here on, while torch is imported
    gc.disable()  # what is imported stays, and a collection in a child would copy every page it looks at
    for name in FIRST:
        importlib.import_module(name)

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    waiting, patience = list(LATER), 0.0
    while True:
        listener.settimeout(patience if waiting else IDLE_S)
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, TimeoutError):
            if not waiting:
                os.unlink(path)  # noqa: PTH108
                return
            with contextlib.suppress(ImportError):  # another torch may lack one
                importlib.import_module(waiting.pop(0))
            patience = 0.0
            continue
        patience = GET_GOING_S
        with connection:
            connection.settimeout(REQUEST_S)
            try:
                line = connection.makefile().readline()
            except OSError:
                continue
            if not line.endswith("\n"):
                continue  # the client died while it wrote
            request = json.loads(line)
            pid = os.fork()
            if pid == 0:
                listener.close()
                connection.close()
                os.close(lock)
                become(request)
            with contextlib.suppress(OSError):  # the front end died; its run goes on
                connection.sendall(json.dumps({"pid": pid}).encode() + b"\n")


def become(request: dict[str, Any]) -> NoReturn:
    """In the child: the requested module, as if python had been started with it."""
    try:
        gc.freeze()
        gc.enable()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        os.environ.clear()
        os.environ.update(request["env"])
        os.chdir(request["cwd"])
        sys.path[:] = request["sys_path"]
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv = [request["module"], *request["argv"]]
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    except BaseException:  # noqa: BLE001 - nothing may return into the server's loop
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


if __name__ == "__main__":
    serve(sys.argv[1])
