"""The parts of a step: each from its own events, a wait for a late worker told from communication."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import pytest
import torch
import torch.distributed as dist

from workbench.runtime.tracing.recorder import Operation, Recorder, SpanRecord
from workbench.runtime.tracing.step_breakdown import step_parts
from workbench.runtime.tracing.tables import timeline_rows
from workbench.runtime.tracing.wait_attribution import attribute_waits
from workbench.testing.workers import run_in_workers

LATE_S = 0.5


def test_the_parts_add_up_to_the_step_and_a_wait_is_counted_once() -> None:
    wait = Operation("all_reduce", "g", 2, (), 1, None, "backward", 8, "float32", 0, entered=0.4, wait_started=0.5, ended=0.8)
    wait.idle_s, wait.issued = 0.1, 0.42
    spans = [SpanRecord("forward", 0, 0, 0, None, 0.0, 0.3), SpanRecord("backward_input", 0, 0, 0, None, 0.3, 0.6)]
    spans += [SpanRecord("optimizer", 0, None, None, None, 0.8, 0.9)]
    recorder = Recorder(operations=[wait], spans=spans)
    parts = step_parts(recorder, [{"step": 0, "kind": "trace", "start_s": 0.0, "duration_s": 1.0}])
    (of_step,) = parts.pop("trace_steps")
    of_axis = parts.pop("axes")["g"]
    assert (of_axis.exposed_communication_s, of_axis.idle_s) == pytest.approx((0.22, 0.1))
    wanted = {
        "step_s": 1.0, "compute_s": 0.48, "exposed_communication_s": 0.22, "idle_s": 0.1, "optimizer_s": 0.1,
        "schedule_s": 0.0, "other_s": 0.1,
    }  # fmt: skip
    assert parts == pytest.approx(wanted)
    assert asdict(of_step) == pytest.approx({"step": 0, **wanted})


def test_what_lies_inside_the_schedules_span_is_taken_out_of_it_and_the_rest_is_its_own() -> None:
    spans = [SpanRecord("schedule", 0, None, None, None, 0.0, 1.0), SpanRecord("forward", 0, 0, 0, None, 0.1, 0.7)]
    recorder = Recorder(spans=spans)
    parts = step_parts(recorder, [{"step": 0, "kind": "trace", "start_s": 0.0, "duration_s": 1.0}])
    assert (parts["compute_s"], parts["schedule_s"], parts["other_s"]) == pytest.approx((0.6, 0.4, 0.0))
    rows = timeline_rows(recorder, origin_s=-2.0)
    assert [(row["kind"], row["start_s"], row["end_s"]) for row in rows] == [
        ("schedule", 2.0, 2.1), ("forward", 2.1, 2.7), ("schedule", 2.7, 3.0),
    ]  # fmt: skip


def late_second_worker(rank: int, recorder: Recorder, control: Any) -> dict[str, float | None]:
    """A step in which worker 1 enters an all-reduce half a second after worker 0."""
    dist.all_reduce(torch.ones(1))
    recorder.tracing, start = True, time.perf_counter()
    if rank == 1:
        with recorder.span("forward"):
            time.sleep(LATE_S)
    dist.all_reduce(torch.ones(1))
    duration = time.perf_counter() - start
    attribute_waits(recorder, control, 2)
    return step_parts(recorder, [{"step": 0, "kind": "trace", "start_s": start, "duration_s": duration}])


def late_receiver(rank: int, recorder: Recorder, control: Any) -> dict[str, Any]:
    """A step in which worker 1 asks half a second late for what worker 0 sends."""
    dist.all_reduce(torch.ones(1))
    recorder.tracing, start = True, time.perf_counter()
    if rank == 1:
        time.sleep(LATE_S)
        dist.recv(torch.ones(1000), 0)
    else:
        dist.send(torch.ones(1000), 1)
    duration = time.perf_counter() - start
    attribute_waits(recorder, control, 2)
    return step_parts(recorder, [{"step": 0, "kind": "trace", "start_s": start, "duration_s": duration}])


@pytest.mark.clock
def test_a_send_that_waits_for_a_late_receiver_is_idle_time_and_no_communication() -> None:
    sender, _ = run_in_workers(2, late_receiver)
    assert sender["idle_s"] == pytest.approx(LATE_S, rel=0.1)
    assert sender["exposed_communication_s"] < LATE_S / 10


@pytest.mark.clock
def test_waiting_for_a_late_worker_is_idle_time_of_the_others() -> None:
    first, second = run_in_workers(2, late_second_worker)
    assert first["idle_s"] == pytest.approx(LATE_S, rel=0.1)
    assert first["exposed_communication_s"] < LATE_S / 10
    assert second["compute_s"] == pytest.approx(LATE_S, rel=0.1)
    assert second["idle_s"] < LATE_S / 10
