"""The worker that caused a failure is named, with what happened first."""

from __future__ import annotations

import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.helpers.process import wait_until
from tests.helpers.run_directory import new_run
from tests.helpers.supervisors import Supervisors, is_gone
from workbench.launch.failure import find_cause
from workbench.launch.spawn import WorkerProcess
from workbench.launch.stacks import is_stopped, place, stack_of
from workbench.store.events import ErrorEvent, Event, ReadyEvent


@pytest.mark.parametrize(
    ("fault", "exception", "step"),
    [
        ("raise", "ValueError: mine", 3),
        ("kill", "killed by SIGKILL", None),
        ("leave", "exited with code 0 before it finished", None),
        ("hang", "hung", None),
    ],
)
def test_the_worker_that_caused_the_failure_is_named(
    supervisors: Supervisors, fault: str, exception: str, step: int | None
) -> None:
    run, supervisor = supervisors.start(fault)
    wait_until(lambda: run.status().state == "failed")
    assert all(is_gone(worker.pid) for worker in run.status().workers), "nothing is left once it says failed"
    assert supervisor.wait() == 0
    error = run.error()
    assert error is not None
    assert (error["rank"], error["step"]) == (1, step)
    assert exception in error["exception"]
    assert error["last_lines"][-1] == "worker 1 was here"
    assert not list(supervisors.queue.glob("*.ticket"))


def test_a_worker_that_hangs_is_named_with_the_time_waited_and_what_to_set() -> None:
    started: list[Event] = [ReadyEvent(time=0.0, rank=0)]
    alone = find_cause([WorkerProcess(0, 1, None)], [started], timeout_s=300.0, silent_s=330.4)
    assert alone.exception == "hung: no worker reported a step for 330 s, longer than launch.timeout_s = 300 s allows"
    broken = ErrorEvent(time=1.0, rank=1, step=3, exception="", traceback="", is_communication=True, operations=())
    processes = [WorkerProcess(0, 1, None), WorkerProcess(1, 2, None, exit_code=1)]
    of_two = find_cause(processes, [started, [broken]], timeout_s=10.0, silent_s=0.1)
    assert of_two.exception == "hung: the other workers waited for it longer than launch.timeout_s = 10 s"
    assert all("increase launch.timeout_s" in error.advice for error in (alone, of_two))


def test_an_exception_is_described_by_what_went_wrong_first() -> None:
    from workbench.runtime.worker import describe

    try:
        try:
            raise ValueError("a tensor\n  is too small")
        except ValueError as error:
            raise RuntimeError("\n  Failed to run stage backward input:\n") from error
    except RuntimeError as error:
        assert describe(error) == "ValueError: a tensor is too small"


STACK = """\
Thread 0x00007f1 [worker] (most recent call first):
  File "{library}/threading.py", line 331 in wait

Current thread 0x00007f2 [python] (most recent call first):
  File "{packages}/torch/distributed/distributed_c10d.py", line 3055 in all_reduce
  File "{own}/my model.py", line 12 in forward
  File "{packages}/torch/nn/modules/module.py", line 1778 in _call_impl
"""


def test_a_worker_that_hangs_is_at_the_innermost_call_of_the_users_code() -> None:
    paths = sysconfig.get_paths()
    text = STACK.format(library=paths["stdlib"], packages=paths["purelib"], own="/home/ada")
    assert place(text) == "my model.py, line 12, in forward"
    assert (
        place("\n".join(line for line in text.splitlines() if "ada" not in line))
        == "distributed_c10d.py, line 3055, in all_reduce"
    )
    assert place("") == place("Current thread 0x00007f2 (most recent call first):\n  <no Python frame>") == ""


def test_the_stack_of_a_worker_in_native_code_is_written(tmp_path: Path) -> None:
    """A lookup in a regular expression holds the interpreter's lock for ever."""
    run = new_run(tmp_path)
    code = (
        "import re, sys; from pathlib import Path; from workbench.runtime.worker import stacks_on_request\n"
        "with stacks_on_request(Path(sys.argv[1])):\n    print(flush=True)\n    re.match('(a*)*b', 'a' * 40)"
    )
    (tmp_path / "native.py").write_text(code)
    command = [sys.executable, str(tmp_path / "native.py"), str(run.stack_path(0))]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as popen:
        process = WorkerProcess(0, popen.pid, popen)
        assert popen.stdout
        popen.stdout.readline()
        wait_until(lambda: place(stack_of(run, process)).startswith("native.py, line 4"))
        assert popen.poll() is None
        popen.send_signal(signal.SIGSTOP)
        wait_until(lambda: is_stopped(popen.pid))
        popen.kill()
