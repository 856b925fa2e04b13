"""What a worker reports of its failure: the supervisor blames the worker whose error is not one of communication."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist

from workbench.runtime.tracing.recorder import Recorder
from workbench.runtime.worker import error_event
from workbench.testing.workers import run_in_workers


@pytest.mark.parametrize(
    ("error", "is_communication"),
    [
        (ValueError("a tensor is too small"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (dist.DistBackendError("no peer"), True),
        (RuntimeError("[gloo/transport/tcp/pair.cc] Read error"), True),
        (RuntimeError("Connection closed by peer [127.0.0.1]:1"), True),
    ],
    ids=str,
)
def test_an_error_of_communication_may_be_that_of_another_worker(error: Exception, is_communication: bool) -> None:
    event = error_event(error, 1, Recorder(step=3))
    assert event.is_communication == is_communication
    assert event.traceback.endswith(f"{error}\n")


def unanswered(rank: int, recorder: Recorder, control: Any) -> tuple[bool, list[str]]:
    """Worker 0 waits in vain for a message of worker 1."""
    dist.all_reduce(torch.ones(1))
    recorder.begin_step(3, tracing=False)
    if rank == 0:
        work = dist.irecv(torch.ones(2), 1)
        assert work is not None
        with pytest.raises(RuntimeError) as failure:
            work.wait(timedelta(milliseconds=1))
        event = error_event(failure.value, rank, recorder)
        dist.barrier(group=control)
        return event.is_communication, list(event.operations[-1:])
    dist.barrier(group=control)
    return recorder.communication_failed, []


def test_a_wait_that_fails_is_one_of_communication_and_names_the_operation() -> None:
    first, second = run_in_workers(2, unanswered)
    assert first == (True, ["step 3: recv 8 bytes with rank 1"])
    assert second == (False, [])
