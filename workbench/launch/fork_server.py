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
import struct
import sys
import time
from typing import Any, NoReturn

IDLE_S = 30 * 60
LOOK_S = 10.0  # how often an idle server looks whether its socket is still there
BIND_S = 0.3  # a server that has the lock binds its socket at once
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


def lock(path: str) -> int | None:
    """Returns the open lock file of the server at a socket; None if there is one.

    A server that holds the lock and has no socket, which something removed, is out of reach: its lock file is replaced.
    """
    while True:
        file = os.open(path + ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            deadline = time.monotonic() + BIND_S
            while time.monotonic() < deadline:
                if os.path.exists(path):  # noqa: PTH110 - pathlib is not worth its import here
                    return None  # another server was faster
                time.sleep(0.01)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path + ".lock")  # noqa: PTH108
        else:
            with contextlib.suppress(FileNotFoundError):
                if os.stat(path + ".lock").st_ino == os.fstat(file).st_ino:  # noqa: PTH116
                    return file
            os.close(file)


def bound(path: str) -> tuple[socket.socket, int]:
    """Returns a socket that listens at the path, and the file's inode."""
    draft = f"{path[:-1]}~"  # as long as the path, whose length is limited
    with contextlib.suppress(FileNotFoundError):
        os.unlink(draft)  # noqa: PTH108
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(draft)
    listener.listen(64)  # clients queue from here on, while torch is imported
    inode = os.stat(draft).st_ino  # noqa: PTH116
    os.replace(draft, path)  # noqa: PTH105
    return listener, inode


def is_at(path: str, inode: int) -> bool:
    """Whether the file at a path is this server's socket."""
    try:
        return os.stat(path).st_ino == inode  # noqa: PTH116
    except FileNotFoundError:
        return False


def peer_uid(connection: socket.socket) -> int:
    """Returns the user of the process at the other end (SO_PEERCRED of unix(7))."""
    pid_uid_gid = struct.Struct("3i")
    return int(pid_uid_gid.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, pid_uid_gid.size))[1])


def serve(path: str) -> None:
    lock_file = lock(path)
    if lock_file is None:
        return
    listener, inode = bound(path)
    gc.disable()  # imported objects stay, and a collection in a child would copy every page that it visits
    for name in FIRST:
        importlib.import_module(name)

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    modules, timeout_s, used_at = list(LATER), 0.0, time.monotonic()
    while True:
        listener.settimeout(timeout_s if modules else LOOK_S)
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, TimeoutError):
            if modules:
                with contextlib.suppress(ImportError):  # another version of torch may lack one
                    importlib.import_module(modules.pop(0))
                timeout_s = 0.0
            elif not is_at(path, inode):
                return
            elif time.monotonic() - used_at > IDLE_S:
                os.unlink(path)  # noqa: PTH108
                return
            continue
        timeout_s, used_at = GET_GOING_S, time.monotonic()
        with connection:
            if peer_uid(connection) == os.getuid():
                answer(connection, (listener.fileno(), lock_file))


def answer(connection: socket.socket, own_files: tuple[int, ...]) -> None:
    """Reads the request and forks the child; in the child it never returns."""
    connection.settimeout(REQUEST_S)
    files, line = list[int](), ""
    try:
        with contextlib.suppress(OSError):  # the client stalls or died
            first, files, _, _ = socket.recv_fds(connection, 1, 1)
            line = first.decode() + connection.makefile().readline()
        if line.endswith("\n"):  # else the client died while it wrote
            request = json.loads(line)
            if os.fork() == 0:
                for file in own_files:
                    os.close(file)
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
