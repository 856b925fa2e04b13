"""Owners, the queue for devices and the fork server, with workers of a few lines that fail in every way."""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.helpers.process import wait_until
from tests.helpers.run_directory import new_run, run_record
from workbench.launch import fork_server
from workbench.launch import start as submit
from workbench.launch.device_queue import Holder, Ticket
from workbench.launch.failure import find_cause
from workbench.launch.spawn import WorkerProcess
from workbench.launch.supervisor import Cancelled, Supervisor
from workbench.spec import RunSpec
from workbench.spec.files import dumps
from workbench.store import listing
from workbench.store.directory import RunDirectory
from workbench.store.events import ErrorEvent, Event, ReadyEvent
from workbench.store.figures import Summary
from workbench.store.records import Environment
from workbench.store.run_status import RunState, RunStatus

WORKER = """
import json, os, signal, sys, threading, time
from pathlib import Path
from workbench.store.directory import RunDirectory
from workbench.store.tables import write_table

run, rank, lifeline = RunDirectory(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
threading.Thread(target=lambda: (os.read(lifeline, 1), os._exit(1)), daemon=True).start()

def say(event, **values):
    with run.events_path(rank).open("a") as file:
        file.write(json.dumps({"time": time.time(), "rank": rank, "event": event, **values}) + "\\n")

def error(is_communication):
    say("error", step=3, exception="ValueError: mine", traceback="", is_communication=is_communication, operations=["send"])
    sys.exit(1)

say("ready")
fault = os.environ["FAULT"]
print("worker", rank, "was here", flush=True)
if fault == "cancel" or (fault == "hang" and rank == 1):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(3600)
if fault in ("raise", "kill", "leave", "hang") and rank == 0:
    error(is_communication=True)
if fault == "raise":
    time.sleep(0.1)  # its neighbour's complaint comes first
    error(is_communication=False)
if fault == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if fault == "leave":
    sys.exit(0)
step = {"run_id": run.id, "rank": rank, "step": 0, "kind": "timed", "start_s": 0.0, "duration_s": 0.5}
write_table(run.table_path("steps", rank), "steps", [step | {"num_samples": 8, "data_s": 0.0}])
parts = ("step_s", "compute_s", "exposed_communication_s", "idle_s", "optimizer_s", "schedule_s", "other_s")
figures = dict.fromkeys(("parameters", "peak_memory_bytes", *parts), 1)
parts = {"step": 0, **dict.fromkeys(parts, 1)}
say("finished", figures={**figures, "counted_flops": None, "trace_steps": [parts], "communication": []})
sys.exit(3 if fault == "late" and rank == 1 else 0)
"""

SUPERVISOR = """
import functools, sys
from pathlib import Path
from workbench.launch import supervisor
from workbench.store.directory import RunDirectory
supervisor.Workers = functools.partial(supervisor.Workers, module="tiny_worker")
supervisor.Ticket = functools.partial(supervisor.Ticket, queue=Path(sys.argv[2]))
supervisor.Supervisor(RunDirectory(Path(sys.argv[1]))).run()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_an_interrupt_first_and_then_ends_the_process(number: signal.Signals) -> None:
    code = """if True:
        import time
        from workbench.launch.termination import terminated_as_interrupted
        with terminated_as_interrupted():
            try:
                with terminated_as_interrupted():  # as submit within run
                    print("ready", flush=True)
                    time.sleep(3600)
            except KeyboardInterrupt:
                print("cleaned up", flush=True)
                raise
    """
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as script:
        assert script.stdout
        assert script.stdout.readline() == "ready\n"
        script.send_signal(number)
        assert script.stdout.read() == "cleaned up\n"
    assert script.returncode == -number


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


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Owners:
    """Starts owners with tiny workers, a store and a queue of their own."""

    def __init__(self, path: Path) -> None:
        self.path, self.queue, self.started = path, path / "queue", list[subprocess.Popen[bytes]]()
        (path / "tiny_worker.py").write_text(WORKER)

    def start(self, fault: str, run_id: str = "run-1", **record: Any) -> tuple[RunDirectory, subprocess.Popen[bytes]]:
        here = {"device": "cpu", "num_cores": 2, "threads_per_worker": 1, "timeout_s": 300.0}
        values = {"num_workers": 2, **here, "mesh": {"data": 2}, "expected": {}, **record}
        run = RunDirectory.create(self.path, run_id, dumps(RunSpec()), run_record(run_id=run_id, **values), Environment())
        path = os.pathsep.join([str(self.path), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-c", SUPERVISOR, str(run.path), str(self.queue)]
        process = subprocess.Popen(command, env={**os.environ, "FAULT": fault, "PYTHONPATH": path})
        self.started.append(process)
        return run, process


@pytest.fixture
def owners(tmp_path: Path) -> Iterator[Owners]:
    made = Owners(tmp_path)
    yield made
    workers = [
        worker["pid"]
        for path in tmp_path.glob("runs/*/status.json")
        for worker in json.loads(path.read_text()).get("workers", [])
    ]
    for process in made.started:
        process.kill()  # the workers' lifeline ends with it
        process.wait()
    wait_until(lambda: all(map(is_gone, workers)))


@pytest.mark.parametrize(
    ("fault", "exception", "step"),
    [
        ("raise", "ValueError: mine", 3),
        ("kill", "killed by SIGKILL", None),
        ("leave", "exited with code 0 before it finished", None),
        ("hang", "hung", None),
    ],
)
def test_the_worker_that_caused_the_failure_is_named(owners: Owners, fault: str, exception: str, step: int | None) -> None:
    run, owner = owners.start(fault)
    wait_until(lambda: run.status().state == "failed")
    assert all(is_gone(worker.pid) for worker in run.status().workers), "nothing is left once it says failed"
    assert owner.wait() == 0
    error = run.error()
    assert error is not None
    assert (error["rank"], error["step"]) == (1, step)
    assert exception in error["exception"]
    assert error["last_lines"][-1] == "worker 1 was here"
    assert not list(owners.queue.glob("*.ticket"))


def test_a_worker_that_hangs_is_named_with_the_time_waited_and_what_to_set() -> None:
    started: list[Event] = [ReadyEvent(time=0.0, rank=0)]
    alone = find_cause([WorkerProcess(0, 1, None)], [started], timeout_s=300.0, silent_s=330.4)
    assert alone.exception == "hung: no worker reported a step for 330 s, longer than launch.timeout_s = 300 s allows"
    broken = ErrorEvent(time=1.0, rank=1, step=3, exception="", traceback="", is_communication=True, operations=())
    processes = [WorkerProcess(0, 1, None), WorkerProcess(1, 2, None, exit_code=1)]
    of_two = find_cause(processes, [started, [broken]], timeout_s=10.0, silent_s=0.1)
    assert of_two.exception == "hung: the other workers waited for it longer than launch.timeout_s = 10 s"
    assert all("increase launch.timeout_s" in error.advice for error in (alone, of_two))


@pytest.mark.parametrize(("fault", "message"), [("none", ""), ("late", "worker 1 exited with code 3 after it finished")])
def test_a_run_whose_workers_finished_is_finished(owners: Owners, fault: str, message: str) -> None:
    run, owner = owners.start(fault)
    assert owner.wait() == 0
    assert (run.status().state, run.status().message) == ("finished", message)
    assert run.summary().step_time_s == 0.5


def test_a_cancelled_run_ends_even_workers_that_ignore_sigterm(owners: Owners) -> None:
    run, owner = owners.start("cancel")
    wait_until(lambda: run.status().state == "running")
    run.request_cancel()
    assert owner.wait() == 0
    assert run.status().state == "cancelled"
    assert all(is_gone(worker.pid) for worker in run.status().workers)


def test_the_second_owner_waits_for_the_device_and_can_be_cancelled_there(owners: Owners) -> None:
    first, _ = owners.start("cancel")
    wait_until(lambda: first.status().state == "running")
    second, waiting = owners.start("none", "run-2")
    wait_until(lambda: second.status().message.startswith("waiting for cpu: held by run run-1 of user "))
    assert second.status().state == "queued"
    second.request_cancel()
    assert waiting.wait() == 0
    assert (second.status().state, first.status().state) == ("cancelled", "running")


def test_a_supervisor_that_starts_late_leaves_a_run_that_has_ended(tmp_path: Path) -> None:
    run = new_run(tmp_path, "run-1", dumps(RunSpec()))
    ended = RunStatus(RunState.CANCELLED, "interrupted before it started")
    run.write_status(ended)
    run.request_cancel()
    Supervisor(run).run()
    assert run.status() == ended


def test_a_run_waits_for_its_baseline(owners: Owners) -> None:
    baseline = new_run(owners.path, "base", dumps(RunSpec()))
    run, owner = owners.start("none", baseline_run_id="base")
    wait_until(lambda: "waiting for baseline base" in run.status().message)
    baseline.write_summary(Summary(step_time_s=1.0))
    baseline.write_status(RunStatus(RunState.FINISHED))
    assert owner.wait() == 0
    assert run.summary().speedup == 2.0


def test_a_run_waits_for_a_quiet_machine_without_the_devices(owners: Owners) -> None:
    never, waiting = owners.start("none", waits_for_quiet=True, max_other_load_cores=-1.0)
    wait_until(lambda: never.status().message.startswith("waiting for a quiet machine: other programs use "))
    other, owner = owners.start("none", "run-2", waits_for_quiet=True, max_other_load_cores=1e6)
    assert owner.wait() == 0
    assert (never.status().state, other.status().state) == ("queued", "finished")
    never.request_cancel()
    assert waiting.wait() == 0
    assert never.status().state == "cancelled"


def test_a_run_that_finds_the_machine_busy_again_leaves_the_queue_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path, "run-1", waits_for_quiet=True)
    supervisor = Supervisor(run)
    monkeypatch.setenv("WORKBENCH_DEVICE_QUEUE", str(tmp_path / "devices"))
    busy_cores = iter([0.0, 0.0, 0.0, 1.5])  # quiet, and busy once it holds the devices
    others: list[Ticket] = []

    def measure(reason: str) -> float:
        if (cores := next(busy_cores, None)) is None:
            others.append(Ticket(["cpu"], Holder("another run")))  # takes the number that has become free
            raise Cancelled
        return cores

    monkeypatch.setattr(supervisor, "_busy_cores", measure)
    supervisor.run()
    assert run.status().state == "cancelled"
    assert others[0].path.exists(), "its place in the queue is still its own"
    others[0].release()


def test_the_workers_of_a_killed_owner_die_and_the_run_is_lost(owners: Owners) -> None:
    run, owner = owners.start("cancel")
    wait_until(lambda: run.status().state == "running")
    owner.kill()
    wait_until(lambda: all(is_gone(worker.pid) for worker in run.status().workers))
    wait_until(lambda: listing.state_of(run) == "lost")  # also while nobody has reaped the owner
    following = Ticket(["cpu"], Holder("another run"), owners.queue)
    assert following.is_first(), "its ticket is void"
    following.release()


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


def test_devices_are_given_in_the_order_of_asking(tmp_path: Path) -> None:
    take = functools.partial(Ticket, holder=Holder("a run"), queue=tmp_path / "queue")
    tickets = [take(["cuda:0"]), take(["cuda:1"]), take(["cuda:0", "cuda:1"]), take(["cuda:0"])]
    assert [ticket.is_first() for ticket in tickets] == [True, True, False, False]
    tickets[0].release()
    assert [ticket.is_first() for ticket in tickets[1:]] == [True, False, False], "nobody overtakes the third"
    tickets[1].release()
    assert [ticket.is_first() for ticket in tickets[2:]] == [True, False]
    for ticket in tickets[2:]:
        ticket.release()


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
def test_a_run_has_the_cores_of_the_command_that_starts_it(owners: Owners, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = owners.start("none")
    server, client = socket.socketpair()
    server.sendall(b"answer\n")
    monkeypatch.setattr(submit, "_connect", lambda: client)
    cores = {max(os.sched_getaffinity(0))}
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: cores)
    submit.start(run)
    with server, server.makefile() as sent:
        asked = json.loads(sent.readline())
    assert (asked["cores"], asked["niceness"]) == ([*cores], os.nice(0))


def test_an_exception_is_described_by_what_went_wrong_first() -> None:
    from workbench.runtime.worker import describe

    try:
        try:
            raise ValueError("a tensor\n  is too small")
        except ValueError as error:
            raise RuntimeError("\n  Failed to run stage backward input:\n") from error
    except RuntimeError as error:
        assert describe(error) == "ValueError: a tensor is too small"
