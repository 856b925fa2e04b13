"""The fork server forks a module with torch in memory; a run starts as its command would."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.helpers.process import wait_until
from tests.helpers.run_directory import new_run, run_record
from tests.helpers.supervisors import Supervisors
from workbench.launch import fork_server
from workbench.launch import start as submit
from workbench.launch.device_queue import Holder, Ticket, locked_tickets
from workbench.spec import RunSpec
from workbench.spec.files import dumps
from workbench.store.directory import RunDirectory
from workbench.store.records import Environment


def test_a_tmpdir_too_deep_for_a_unix_socket_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:  # pytest's own may be too deep itself
        short, deep = Path(directory, "short"), Path(directory, "x" * 90)
        short.mkdir(), deep.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", directory)
        monkeypatch.setattr(submit, "_SHORT_DIRECTORY", str(short))
        assert (near := submit.socket_path()) is not None
        assert near.parent.parent == Path(directory)
        monkeypatch.setattr(tempfile, "tempdir", str(deep))
        assert submit.socket_path() == short / near.relative_to(directory)
        monkeypatch.setattr(submit, "_SHORT_DIRECTORY", str(deep / "no less deep"))
        assert submit.socket_path() is None


def test_only_a_directory_of_this_user_alone_holds_the_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def path() -> Path | None:
        return submit.socket_path()

    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        runtime, temporary, last = (Path(directory, name) for name in ("runtime", "temporary", "last"))
        runtime.mkdir(), temporary.mkdir(), last.mkdir()
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        monkeypatch.setattr(submit, "_SHORT_DIRECTORY", str(last))
        assert path().parent == runtime / "workbench"
        (runtime / "workbench").chmod(0o750)
        in_temporary = temporary / f"workbench-{os.getuid()}"
        assert path().parent == in_temporary
        in_temporary.rename(temporary / "elsewhere")
        in_temporary.symlink_to(temporary / "elsewhere")
        assert path().parent == last / in_temporary.name
        path().parent.rmdir()
        (last / in_temporary.name).touch()
        assert path() is None


@pytest.mark.skipif(os.getuid() != 0, reason="only root becomes another user")
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are spawned")
def test_no_other_user_serves_or_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os, socket, sys; os.setuid(65534); s = socket.socket(socket.AF_UNIX); "
    serving = code + "s.bind(sys.argv[1]); s.listen(); print(flush=True); s.accept()[0].recv(1); print('was read', flush=True)"
    asking = code + "s.connect(sys.argv[1]); s.sendall(b'{}\\n')\ntry: print(s.recv(1))\nexcept ConnectionResetError: print(b'')"
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        Path(directory).chmod(0o777)  # each end checks the other, whatever the directory
        path = Path(directory, "s.sock")
        monkeypatch.setattr(submit, "socket_path", lambda: path)
        other = subprocess.Popen([sys.executable, "-c", serving, str(path)], stdout=subprocess.PIPE)
        other.stdout.readline()
        assert submit._connect() is None
        assert other.communicate()[0] == b"was read\n", "nothing but the end of the connection"
        path.unlink()
        server_code = f"from workbench.launch import fork_server as f; f.FIRST, f.LATER = (), (); f.serve({str(path)!r})"
        server = subprocess.Popen([sys.executable, "-c", server_code])
        try:
            wait_until(path.exists)
            path.chmod(0o777)
            answers = []

            def is_answered() -> bool:  # it may not listen yet
                asked = subprocess.run([sys.executable, "-c", asking, str(path)], capture_output=True, text=True)
                answers.append(asked.stdout)
                return asked.returncode == 0

            wait_until(is_answered)
            assert answers[-1] == "b''\n"
            assert server.poll() is None
        finally:
            server.kill()
            server.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are spawned")
def test_a_server_whose_socket_is_gone_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    code = f"from workbench.launch import fork_server as f; f.FIRST, f.LATER, f.LOOK_S = (), (), 0.1; f.serve({str(path)!r})"
    servers = [subprocess.Popen([sys.executable, "-c", code])]
    try:
        wait_until(path.exists)
        servers[0].send_signal(signal.SIGSTOP)  # it lives, and does not look
        path.unlink()
        servers.append(subprocess.Popen([sys.executable, "-c", code]))
        wait_until(path.exists)
        inode = path.stat().st_ino
        servers[0].send_signal(signal.SIGCONT)
        assert servers[0].wait() == 0
        assert path.stat().st_ino == inode, "the other server's"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
        assert servers[1].poll() is None
    finally:
        for server in servers:
            server.kill()
            server.wait()


def test_a_folder_of_the_packages_name_in_the_current_directory_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = {"num_workers": 1, "device": "cpu", "baseline_run_id": "base"}
    new_run(tmp_path / "store", "base", dumps(RunSpec()))
    run = RunDirectory.create(tmp_path / "store", "run-1", dumps(RunSpec()), run_record(**record), Environment())
    run.request_cancel()
    (tmp_path / "workbench").mkdir()
    (tmp_path / "workbench" / "__init__.py").write_text("raise SystemExit('the package of the current directory')")
    monkeypatch.chdir(tmp_path)
    submit.start(run, use_server=False)
    wait_until(lambda: run.status().state == "cancelled" or run.supervisor_log_path.stat().st_size > 0)
    assert (run.status().state, run.supervisor_log_path.read_text()) == ("cancelled", "")


def request(path: Path, line: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(line)
        return connection.makefile("rb").readline() if line.endswith(b"\n") else b""


def names(path: Path, message: dict[str, Any]) -> list[str]:
    """The modules that a process finds in memory that is forked a while after the request before."""
    time.sleep(2 * fork_server.GET_GOING_S)  # asked without a pause, the server would never come to its postponed imports
    log = Path(message["log"])
    log.unlink(missing_ok=True)
    request(path, json.dumps(message).encode() + b"\n")
    wait_until(lambda: log.exists() and log.read_text().endswith("END\n"))
    return log.read_text().split()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are spawned")
def test_the_fork_server_forks_a_module_with_torch_in_memory(tmp_path: Path) -> None:
    code = "import json, os, sys\nprint(json.dumps([os.getpid(), os.getsid(0), os.getcwd(), os.environ['HERE'], sys.argv[1:], "
    code += "'torch.distributed' in sys.modules, 'workbench' in sys.modules, [*os.sched_getaffinity(0)], os.nice(0)]))\n"
    (tmp_path / "tiny_module.py").write_text(code)
    (tmp_path / "names.py").write_text("import sys; print(*sys.modules, 'END')")
    path, log = tmp_path / "s.sock", tmp_path / "log"
    command = [sys.executable, "-P", fork_server.__file__, str(path)]
    server = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd="/")
    try:
        wait_until(path.exists)
        assert subprocess.run(command, check=False).returncode == 0, "a second server leaves at once"
        message = {
            "module": "tiny_module",
            "argv": ["a"],
            "env": {**os.environ, "HERE": "yes"},
            "cwd": str(tmp_path),
            "sys_path": [str(tmp_path), *sys.path],
            "log": str(log),
            "cores": [max(os.sched_getaffinity(0))],  # the server itself may use all
            "niceness": os.nice(0) + 1,
        }
        request(path, b'{"module": "ti')  # a client that died while it wrote
        unseen = {**message, "log": str(tmp_path / "not mounted here" / "log")}
        assert request(path, json.dumps(unseen).encode() + b"\n") == b"", "the front end then starts the run itself"
        pid = json.loads(request(path, json.dumps(message).encode() + b"\n"))["pid"]
        wait_until(lambda: log.exists() and log.read_text().endswith("\n"))
        assert json.loads(log.read_text()) == [
            *(pid, pid, str(tmp_path), "yes", ["a"], True, False),
            *(message["cores"], message["niceness"]),
        ]
        wait_until(lambda: not psutil.pid_exists(pid))  # reaped, not a zombie

        message["module"] = "names"
        wait_until(lambda: set(fork_server.LATER) <= set(names(path, {**message, "log": str(tmp_path / "names.log")})))
        assert psutil.Process(server.pid).num_threads() == 1, "forking a process with threads is not safe"
        assert server.poll() is None
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are spawned")
def test_a_file_is_handed_on_and_never_kept(tmp_path: Path) -> None:
    path, queue = tmp_path / "s.sock", tmp_path / "queue"
    (tmp_path / "holder.py").write_text(
        "import os, sys, time\nos.fstat(int(sys.argv[1]))\nprint(sys.argv[1:], flush=True)\ntime.sleep(999)"
    )
    code = f"from workbench.launch import fork_server as f; f.FIRST, f.LATER, f.REQUEST_S = (), (), 0.2; f.serve({str(path)!r})"
    server = subprocess.Popen([sys.executable, "-c", code])
    message = {"module": "holder", "argv": [], "env": {}, "cwd": str(tmp_path), "sys_path": [str(tmp_path), *sys.path]}
    message |= {"log": str(tmp_path / "log"), "cores": [*os.sched_getaffinity(0)], "niceness": os.nice(0)}
    line = json.dumps(message).encode() + b"\n"
    try:
        wait_until(path.exists)
        wait_until(lambda: bool(request(path, json.dumps({**message, "module": "this"}).encode() + b"\n")))
        with socket.socket(socket.AF_UNIX) as stalled:
            stalled.connect(str(path))
            ticket = Ticket(["cpu"], Holder("stalled"), queue)
            socket.send_fds(stalled, [line[:1]], [ticket.file])
            ticket.close()
            wait_until(lambda: not locked_tickets(queue))
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            ticket = Ticket(["cpu"], Holder("handed on"), queue)
            socket.send_fds(connection, [line[:1]], [ticket.file])
            connection.sendall(line[1:])
            pid = json.loads(connection.makefile().readline())["pid"]
        ticket.close()
        wait_until(lambda: (tmp_path / "log").read_text().endswith("]\n"))
        assert [entry.holder.activity for entry in locked_tickets(queue)] == ["handed on"]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not locked_tickets(queue))
        assert server.poll() is None
    finally:
        server.kill()
        server.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are spawned")
def test_a_run_has_the_cores_of_the_command_that_starts_it(supervisors: Supervisors, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = supervisors.start("none")
    server, client = socket.socketpair()
    server.sendall(b"answer\n")
    monkeypatch.setattr(submit, "_connect", lambda: client)
    cores = {max(os.sched_getaffinity(0))}
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: cores)
    submit.start(run)
    with server, server.makefile() as sent:
        asked = json.loads(sent.readline())
    assert (asked["cores"], asked["niceness"]) == ([*cores], os.nice(0))
