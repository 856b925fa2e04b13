"""Communication as seen: every operation, its bytes, when it was done, whom it waited for."""

from __future__ import annotations

import os
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile

from tests.helpers.recorded import pipeline_run
from workbench.analysis import trace
from workbench.analysis.communication import by_operation
from workbench.export.chrome_trace import trace_events
from workbench.plan.resolve import plan
from workbench.runtime.batches import Batches
from workbench.runtime.build import build_worker, make_mesh
from workbench.runtime.optimizer import make_optimizer
from workbench.runtime.step_loop import run_steps, take_step
from workbench.runtime.tracing.completion import complete
from workbench.runtime.tracing.gloo import GlooSpan
from workbench.runtime.tracing.process_group import control_group
from workbench.runtime.tracing.recorder import Operation, Recorder
from workbench.runtime.tracing.tables import communication_rows
from workbench.runtime.tracing.wait_attribution import attribute_waits
from workbench.spec import RunSpec
from workbench.store.tables import write_table
from workbench.testing.workers import run_in_workers

LATE_S = 0.5
CPU = torch.device("cpu")
TRANSFORMER = {"name": "transformer", "num_layers": 2, "hidden_dim": 32, "num_heads": 2}
_PIPELINE = {"size": 2, "num_microbatches": 2}
SPLITS: dict[str, dict[str, Any]] = {
    "data": {"split": {"data": 2}},
    "fsdp": {"split": {"fsdp": 2}},
    "zero1": {"split": {"zero1": 2}},
    "layer": {"split": {"layer": 2}},
    "pipeline": {"split": {"pipeline": _PIPELINE}},
    "tensor": {"split": {"tensor": 2}},
    "context": {"split": {"context": 2}},
    "expert": {"split": {"expert": 2}, "model": {"name": "moe", "num_layers": 2, "hidden_dim": 32, "num_heads": 2}},
    "dp2 · pp2 · tp2": {"split": {"data": 2, "pipeline": _PIPELINE, "tensor": 2}},
}
"""All groups are of two workers."""
NUM_SHARING = 2
AVERAGED_BY_TORCH = ("data", "context", "expert", "dp2 · pp2 · tp2")
"""DDP puts gradients into buckets of its own, and the routing decides how many tokens go where: the formulas give the sum."""
TRACE_STEP = 2  # on its second step DDP agrees about its buckets anew
DTYPE_BYTES = {"float": 4, "double": 8, "long int": 8, "c10::BFloat16": 2}


def spec_of(name: str) -> dict[str, Any]:
    """Two timed steps, then the trace step."""
    train = {"num_warmup_steps": 0, "num_steps": TRACE_STEP, "global_batch_size": 8}
    return {"model": TRANSFORMER, "train": train, "measure": {"num_trace_steps": 1}, **SPLITS[name]}


def traced(rank: int, recorder: Recorder, control: Any, spec: dict[str, Any]) -> dict[str, Any]:
    """What the recorder says: the steps, and the rows of the trace step."""
    planned = plan(RunSpec(**spec))
    worker = build_worker(planned, rank, make_mesh(planned, "cpu", recorder), recorder, CPU, torch.float32)
    record = run_steps(planned, worker, Batches(planned, CPU, torch.float32), recorder, lambda **_: None)
    agreement = complete(recorder)
    attribute_waits(recorder, control, planned.num_workers)
    return {"steps": record.steps, "rows": communication_rows(recorder, origin_s=0.0), "agreement": agreement}


def profiled(rank: int, recorder: Recorder, control: Any, spec: dict[str, Any]) -> list[tuple[str, int]]:
    """The same step as torch's profiler sees it, with nothing of ours recorded: gloo's operations, with the bytes of the full
    tensor. Its spans carry the shape of the input: of an all-gather that is this worker's part, one of
    ``NUM_SHARING`` equal ones; of everything else it is the full tensor. A reduce-scatter is an all-reduce of its input."""
    planned = plan(RunSpec(**spec))
    worker = build_worker(planned, rank, make_mesh(planned, "cpu", recorder), recorder, CPU, torch.float32)
    optimizer = make_optimizer(worker, planned.spec.train)
    batches = Batches(planned, CPU, torch.float32)
    for step in range(TRACE_STEP):
        take_step(worker, optimizer, *batches.worker_batch(step, worker))
    inputs, targets = batches.worker_batch(TRACE_STEP, worker)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        take_step(worker, optimizer, inputs, targets)
    spans = [e for e in profiler.profiler.kineto_results.events() if e.name().startswith("gloo:")]
    seen = []
    for span in spans:
        operation = span.name().removeprefix("gloo:")
        sizes = zip(span.shapes(), span.dtypes(), strict=True)
        input_bytes = sum(torch.Size(shape).numel() * DTYPE_BYTES[dtype] for shape, dtype in sizes)
        seen.append((operation, input_bytes * (NUM_SHARING if operation == "all_gather" else 1)))
    return seen


def as_gloo_runs_it(operation: str) -> str:
    return "all_reduce" if operation == "reduce_scatter" else operation


@pytest.mark.slow
@pytest.mark.parametrize("name", SPLITS)
def test_bytes_are_the_same_by_trace_by_torchs_profiler_and_by_formula(name: str) -> None:
    spec = spec_of(name)
    planned = plan(RunSpec(**spec))
    workers = run_in_workers(planned.num_workers, traced, spec)
    profiles = run_in_workers(planned.num_workers, profiled, spec)
    for worker, seen in zip(workers, profiles, strict=True):
        assert Counter((as_gloo_runs_it(row["operation"]), row["payload_bytes"]) for row in worker["rows"]) == Counter(seen)
        assert len(seen) > 0
        assert not worker["agreement"].differences

    by_trace, by_profiler, by_formula = Counter[Any](), Counter[Any](), Counter[Any]()
    for worker, seen in zip(workers, profiles, strict=True):
        for row in (row for row in worker["rows"] if row["operation"] != "recv"):
            assert row["group_size"] == (1 if row["operation"] == "send" else NUM_SHARING)
            by_trace[row["operation"], row["axis"], row["phase"]] += row["payload_bytes"]
        for operation, num_bytes in seen:
            by_profiler[operation] += num_bytes
    for t in planned.expected_communication:  # each collective once a group: by trace each of its workers reports it
        by_formula[t.operation, t.axis, t.phase] += t.count * t.payload_bytes * (1 if t.operation == "send" else NUM_SHARING)
    assert by_trace == by_formula
    wanted = Counter[str]()
    for (operation, _, _), num_bytes in by_formula.items():
        wanted[as_gloo_runs_it(operation)] += num_bytes
    del by_profiler["recv"]
    assert by_profiler == wanted


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SPLITS if name not in AVERAGED_BY_TORCH])
def test_each_single_operation_has_the_bytes_of_the_formula(name: str) -> None:
    spec = spec_of(name)
    planned = plan(RunSpec(**spec))
    found, wanted = Counter[Any](), Counter[Any]()
    for worker in run_in_workers(planned.num_workers, traced, spec):
        found.update(
            (r["operation"], r["axis"], r["phase"], r["payload_bytes"]) for r in worker["rows"] if r["operation"] != "recv"
        )
    for t in (t for t in planned.expected_communication if t.payload_bytes):
        count = t.count * (1 if t.operation == "send" else NUM_SHARING)
        wanted[t.operation, t.axis, t.phase, t.payload_bytes] += count
    assert found == wanted


@pytest.mark.parametrize(
    "name", ["pipeline", *(pytest.param(name, marks=pytest.mark.slow) for name in ("fsdp", "dp2 · pp2 · tp2"))]
)
def test_an_operation_has_the_same_number_and_bytes_on_all_its_workers_and_every_step_counts_it(name: str) -> None:
    spec = spec_of(name)
    workers = run_in_workers(plan(RunSpec(**spec)).num_workers, traced, spec)
    participants: dict[Any, list[tuple[str, int]]] = {}
    for rank, worker in enumerate(workers):
        for row in worker["rows"]:
            pair = {"send": (rank, row["peer"]), "recv": (row["peer"], rank)}.get(row["operation"], ())
            participants.setdefault((row["group"], *pair, row["sequence"]), []).append((row["operation"], row["payload_bytes"]))
            assert row["blocked_s"] == pytest.approx(row["idle_s"] + row["exposed_communication_s"])
            assert (row["late_rank"] is not None) == (row["idle_s"] > 0)
        agreement = worker["agreement"]
        assert not agreement.differences
        assert agreement.num_operations == agreement.num_seen == len(worker["rows"])
        totals = {"num_operations": len(worker["rows"]), "payload_bytes": sum(row["payload_bytes"] for row in worker["rows"])}
        for step in worker["steps"][TRACE_STEP:]:
            assert {key: step[key] for key in totals} == totals
    for sharing in participants.values():
        assert len(sharing) == NUM_SHARING
        assert len({num_bytes for _, num_bytes in sharing}) == 1
        assert {operation for operation, _ in sharing} in ({sharing[0][0]}, {"send", "recv"})


def late_and_unattended(rank: int, recorder: Recorder, control: Any) -> list[dict[str, Any]]:
    """Worker 1 enters an all-reduce late, sends late, and then nobody waits for an all-reduce until late."""
    tensor = torch.ones(1000)
    dist.all_reduce(tensor)
    dist.barrier(group=control)
    recorder.begin_step(0, tracing=True)
    if rank == 1:
        time.sleep(LATE_S)
    dist.all_reduce(tensor)
    if rank == 1:
        time.sleep(LATE_S)
    dist.send(tensor, 0) if rank == 1 else dist.recv(tensor, 1)
    work = dist.all_reduce(tensor, async_op=True)
    time.sleep(LATE_S)
    work.wait()
    recorder.end_step()
    assert not complete(recorder).differences
    attribute_waits(recorder, control, 2)
    return communication_rows(recorder, origin_s=0.0)


@pytest.mark.clock
def test_rows_say_who_was_late_and_when_an_operation_that_nobody_waits_for_was_done() -> None:
    first, second = run_in_workers(2, late_and_unattended)
    assert [row["operation"] for row in first] == ["all_reduce", "recv", "all_reduce"]
    for waited in first[:2]:
        assert waited["late_rank"] == 1
        assert waited["idle_s"] == pytest.approx(LATE_S, rel=0.1)
    assert [row["late_rank"] for row in second[:2]] == [None, None]
    for unattended in (first[2], second[2]):
        assert unattended["completed_s"] - unattended["start_s"] < LATE_S / 2
        assert unattended["end_s"] - unattended["start_s"] > LATE_S


def send_that_is_waited_for_late(rank: int, recorder: Recorder, control: Any) -> list[dict[str, Any]]:
    """Worker 0 sends, and waits for it once worker 1 has received."""
    tensor = torch.ones(1000)
    dist.all_reduce(tensor)  # connects them
    recorder.begin_step(0, tracing=True)
    if rank == 0:
        work = dist.isend(tensor, 1)
        dist.barrier(group=control)
        assert work is not None
        work.wait()
    else:
        dist.recv(tensor, 0)
        dist.barrier(group=control)
    recorder.end_step()
    complete(recorder)
    attribute_waits(recorder, control, 2)
    return communication_rows(recorder, origin_s=0.0)


def test_a_send_is_done_when_its_receive_is_however_late_it_is_waited_for(tmp_path: Path) -> None:
    (send,), (receive,) = run_in_workers(2, send_that_is_waited_for_late)
    assert send["completed_s"] <= receive["end_s"] < send["end_s"]
    run, took_s = pipeline_run(tmp_path), send["completed_s"] - send["start_s"]
    row = {name: value for name, value in send.items() if name != "group_size"}
    write_table(run.table_path("communication", 0), "communication", [{**row, "rank": 0, "step": 3}])
    assert by_operation(run.table("communication")).set_index("operation")["duration_s"]["send"] == pytest.approx(took_s)
    listed, _ = trace.operations_of(trace.communication_of(run, 3), send["start_s"], ["send"])
    assert listed["duration_ms"].item() == pytest.approx(took_s * 1e3)
    (event,) = [e for e in trace_events([run]) if e["ph"] == "X" and e["name"] == "send"]
    assert event["dur"] == pytest.approx(took_s * 1e6, abs=1e-2)


def late_bucket(rank: int, recorder: Recorder, control: Any) -> dict[str, Any]:
    """A step that nobody traces, in which DDP's C++ waits for worker 1."""
    model = DistributedDataParallel(torch.nn.Linear(8, 8))
    for step in range(3):  # on the second DDP agrees about its buckets anew
        recorder.begin_step(step, tracing=False)
        loss = model(torch.ones(2, 8)).sum()
        if rank == 1 and step == 2:
            time.sleep(LATE_S)
        loss.backward()
        counted = recorder.end_step()
    assert not recorder.operations
    return counted


@pytest.mark.clock
def test_steps_without_a_trace_know_how_long_cplusplus_waited_for_a_bucket() -> None:
    first, second = run_in_workers(2, late_bucket)
    assert first["blocked_s"] == pytest.approx(LATE_S, rel=0.1)
    assert second["blocked_s"] < LATE_S / 10


def test_steps_without_a_trace_count_what_cplusplus_issued() -> None:
    first, second = run_in_workers(2, late_bucket)
    assert first["blocked_s"] > 0
    assert first["num_operations"] == second["num_operations"] == 1
    assert first["payload_bytes"] == (8 * 8 + 8) * 4


def on_a_missing_interface(rank: int, recorder: Recorder, control: Any) -> int:
    os.environ["GLOO_SOCKET_IFNAME"] = "nowhere0"
    group, total = control_group(timedelta(seconds=30)), torch.tensor([rank + 1])
    dist.all_reduce(total, group=group)
    return int(total)


def test_workers_of_one_machine_need_no_interface_that_the_environment_names() -> None:
    assert run_in_workers(2, on_a_missing_interface) == [3, 3]


def operation(name: str, number: int, entered: float, ended: float) -> Operation:
    return Operation(name, "g", 2, (), number, None, "forward", 8, "float32", 0, entered, wait_started=entered, ended=ended)


def test_what_the_profiler_saw_otherwise_is_said_and_not_guessed() -> None:
    rows = [operation("all_reduce", 1, 1.0, 2.0), operation("all_gather", 2, 3.0, 4.0), operation("reduce_scatter", 3, 5.0, 6.0)]
    reduced, gathered = GlooSpan("all_reduce", 2, 0, 1.1, 1.9), GlooSpan("all_gather", 1, 0, 3.1, 3.9)
    missing = Recorder(operations=rows, gloo_spans=[reduced, gathered])
    assert complete(missing).differences == ["step 0, all_reduce of 2 elements: 2 recorded, 1 seen by torch's profiler"]
    assert [row.completed for row in rows] == [None, 3.9, None]

    of_another_size = Recorder(operations=rows, gloo_spans=[reduced, gathered, GlooSpan("all_reduce", 3, 0, 5.1, 5.9)])
    assert len(complete(of_another_size).differences) == 2

    early = Recorder(operations=rows, gloo_spans=[reduced, gathered, GlooSpan("all_reduce", 2, 0, 4.9, 5.8)])
    assert len(complete(early).differences) == 1
    assert rows[2].completed is None

    whole = Recorder(operations=rows, gloo_spans=[reduced, gathered, GlooSpan("all_reduce", 2, 0, 5.1, 7.0)])
    agreement = complete(whole)
    assert agreement.differences == []
    assert [row.completed for row in rows] == [1.9, 3.9, 7.0]
    assert (agreement.num_completed, agreement.num_late) == (3, 1)


def test_collectives_of_one_size_that_overlap_are_not_told_apart() -> None:
    rows = [operation("all_reduce", number, 1.0, 2.0) for number in range(3)]
    times = [(1.1, 1.3), (1.2, 1.4), (1.5, 1.6)]
    agreement = complete(Recorder(operations=rows, gloo_spans=[GlooSpan("all_reduce", 2, 0, *time) for time in times]))
    assert [row.completed for row in rows] == [None, None, 1.6]
    assert not agreement.differences
