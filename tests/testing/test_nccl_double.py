"""NCCL's contract, kept by a double over gloo: synchronous collectives return None, a send ends only with its receive."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
import torch.distributed as dist

from workbench.plan.compatibility import Case
from workbench.registry import STRATEGIES
from workbench.runtime.build import make_mesh
from workbench.runtime.tracing.recorder import Recorder
from workbench.runtime.tracing.tables import communication_rows
from workbench.runtime.tracing.wait_attribution import attribute_waits
from workbench.spec import RunSpec
from workbench.testing import nccl_double
from workbench.testing.conformance import assert_conforms, mesh_cases, schedule_cases, strategy_cases
from workbench.testing.nccl_double import NCCLDouble
from workbench.testing.workers import run_in_workers

CHEAPEST = ("mlp", "cnn", "lstm", "moe", "transformer")


def cheapest(found: list[Case]) -> list[Case]:
    """A case of each split and mode."""
    chosen: dict[tuple[str, str], Case] = {}
    for case in sorted(found, key=lambda case: CHEAPEST.index(case.model) if case.model in CHEAPEST else len(CHEAPEST)):
        chosen.setdefault((case.split, case.mode), case)
    return list(chosen.values())


TRAIN = ("train",)
USUAL = [cheapest(strategy_cases(name, modes=TRAIN))[0] for name in STRATEGIES.names()]
USUAL += cheapest(schedule_cases("1f1b", modes=TRAIN))
WHOLE = cheapest(strategy_cases() + schedule_cases(size=4, modes=TRAIN) + mesh_cases(TRAIN))
EVERY_CASE = [
    *(pytest.param(case, id=str(case)) for case in {str(case): case for case in USUAL}.values()),
    *(
        pytest.param(case, id=name, marks=pytest.mark.double)
        for name, case in {str(case): case for case in WHOLE}.items()
        if name not in map(str, USUAL)
    ),
]


@pytest.mark.parametrize("case", EVERY_CASE)
def test_a_split_conforms_over_nccl(case: Case) -> None:
    assert_conforms(case.spec, NCCLDouble)


def contract(rank: int, recorder: Recorder, control: Any) -> dict[str, Any]:
    """What the double answers to, on each of two workers that do the same."""
    nccl_double.DEADLOCK_S = 1.0
    group, peer = dist.group.WORLD, 1 - rank
    found = {"synchronous": group.inner.allreduce([torch.ones(1)], _options(False))}
    found["asynchronous"] = group.inner.allreduce([torch.ones(1)], _options(True)).wait()
    with pytest.raises(ValueError, match="contiguous"):
        dist.all_reduce(torch.ones(2, 3).t())
    with pytest.raises(TypeError, match="int16"):
        dist.all_reduce(torch.ones(2, dtype=torch.int16))
    arrived = torch.zeros(1)
    batch = [dist.P2POp(dist.isend, torch.full((1,), rank + 1.0), peer), dist.P2POp(dist.irecv, arrived, peer)]
    for work in dist.batch_isend_irecv(batch):
        work.wait()
    found["arrived"] = arrived.item()
    sending = dist.isend(torch.ones(1), peer)
    dist.irecv(torch.zeros(1), peer)
    with pytest.raises(RuntimeError, match="deadlock"):
        sending.wait()
    return found


def _options(is_async: bool) -> dist.AllreduceOptions:
    options = dist.AllreduceOptions()
    options.asyncOp = is_async
    return options


def test_the_double_keeps_the_contract() -> None:
    found = run_in_workers(2, contract, make_group=NCCLDouble)
    assert found == [{"synchronous": None, "asynchronous": True, "arrived": 2.0 - rank} for rank in range(2)]


def recorded(rank: int, recorder: Recorder, control: Any) -> list[dict[str, Any]]:
    """Rows of a synchronous all-reduce and of a batch of send and recv, to both of which rank 1 comes late."""
    peer, x, y = 1 - rank, torch.ones(1000), torch.empty(1000)
    recorder.begin_step(0, tracing=True)
    batch = [dist.P2POp(dist.isend, x, peer), dist.P2POp(dist.irecv, y, peer)]
    for communicate in (lambda: dist.all_reduce(x), lambda: [work.wait() for work in dist.batch_isend_irecv(batch)]):
        dist.barrier(group=control)
        if rank == 1:
            time.sleep(0.1)
        communicate()
    counted = recorder.end_step()
    attribute_waits(recorder, control, 2)
    rows = communication_rows(recorder, origin_s=0.0)
    return [counted, *rows]


def test_what_a_synchronous_collective_and_a_batch_wait_for_is_recorded() -> None:
    workers = run_in_workers(2, recorded, make_group=NCCLDouble)
    entered = [rows[1]["start_s"] for rows in workers]
    starts = [[row["start_s"] for row in rows[2:]] for rows in workers]
    for rank, (counted, *rows) in enumerate(workers):
        assert [(row["operation"], row["peer"], row["payload_bytes"]) for row in rows] == [
            ("all_reduce", None, 4000), ("send", 1 - rank, 4000), ("recv", 1 - rank, 4000),
        ]  # fmt: skip
        assert counted["num_operations"] == 3
        assert all(row["start_s"] < row["end_s"] for row in rows)
        reduced, *batch = rows
        assert reduced["idle_s"] == pytest.approx(max(0.0, entered[1] - entered[rank]), abs=1e-6)
        assert batch[0]["end_s"] == batch[1]["end_s"], "they are waited for together"
        late_ranks = [row["late_rank"] for row in batch if row["late_rank"] is not None]
        assert late_ranks in ([], [1 - rank]), "and what they waited for counts once"
        if min(starts[1 - rank]) - max(starts[rank]) > 0.05:  # as planned, unless the system stopped rank 0 meanwhile
            assert late_ranks
        assert sum(row["idle_s"] for row in batch) < batch[0]["end_s"] - batch[0]["start_s"]


def communicators(rank: int, recorder: Recorder, control: Any) -> list[Any]:
    from workbench.plan.resolve import plan

    spec = RunSpec(model={"name": "mlp"}, split={"pipeline": {"size": 2, "num_microbatches": 2}})
    mesh = make_mesh(plan(spec), "cpu", recorder)
    assert mesh is not None
    group: Any = mesh["pipeline"].get_group()
    return list(group.inner._communicators)


def test_the_communicator_of_an_axis_is_there_before_its_first_batch() -> None:
    assert run_in_workers(2, communicators, make_group=NCCLDouble) == [[None], [None]]
