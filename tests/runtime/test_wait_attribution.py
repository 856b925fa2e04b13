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


def test_the_times_along_an_axis_are_means_over_the_trace_steps_like_those_of_the_step() -> None:
    waits = [
        Operation("all_reduce", "g", 2, (), step, None, "backward", 8, "float32", step, 0.0, issued, 0.5, 0.5 + wait_s, idle_s)
        for step, issued, wait_s, idle_s in ((0, 0.1, 0.3, 0.2), (1, 0.3, 0.5, 0.4))
    ]
    recorder = Recorder(axes={"g": "data"}, operations=waits)
    steps = [{"step": step, "kind": "trace", "start_s": 0.0, "duration_s": 1.0} for step in (0, 1)]
    parts = step_parts(recorder, steps)
    along = parts["axes"]["data"]
    assert (along.exposed_communication_s, along.idle_s) == pytest.approx((0.3, 0.3))
    assert (parts["exposed_communication_s"], parts["idle_s"]) == pytest.approx((0.3, 0.3))


def given_times(rank: int, recorder: Recorder, control: Any) -> list[tuple[float, float, int | None, float | None]]:
    """Waits at given times: worker 1 is late for an all-reduce; worker 0 waits last for a send that was received long before."""
    entered, wait_started = ((0.0, 0.5), (2.0, 2.0))[rank]
    message, sent_at = ("send", 4.0) if rank == 0 else ("recv", 3.5)
    recorder.operations = [
        Operation("all_reduce", "g", 2, (), 1, None, "backward", 8, "float32", 0, entered, entered, wait_started, 3.0),
        Operation(
            message, "g", 2, (0, 1), 1, 1 - rank, "forward", 8, "float32", 0, sent_at, sent_at, (8.0, 3.5)[rank], (9.0, 5.0)[rank]
        ),
    ]
    attribute_waits(recorder, control, 2)
    return [(op.idle_s, op.exposed_s, op.late_rank, op.completed) for op in recorder.operations]


def test_a_wait_is_idle_until_the_last_participant_enters_and_a_send_is_done_when_it_is_received() -> None:
    first, second = run_in_workers(2, given_times)
    assert first == [(1.5, 1.0, 1, None), (0.0, 1.0, None, 5.0)]
    assert second == [(0.0, 1.0, None, None), (0.5, 1.0, 0, None)]


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
