"""The worker that caused a failure is named, with what happened first."""

from __future__ import annotations

import pytest

from tests.helpers.process import wait_until
from tests.helpers.supervisors import Supervisors, is_gone
from workbench.launch.failure import find_cause
from workbench.launch.spawn import WorkerProcess
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
