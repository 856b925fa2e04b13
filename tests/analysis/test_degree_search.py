"""All ways to share work among so many workers."""

from __future__ import annotations

from workbench.analysis.degree_search import choices
from workbench.analysis.expected import expected_communication, held
from workbench.plan.resolve import plan
from workbench.spec import RunSpec


def test_every_way_is_there_once_with_its_figures_or_why_it_cannot_be() -> None:
    spec = RunSpec(train={"global_batch_size": 4})
    frame = choices(spec, 8, {"data": {}, "tensor": {"sequence_parallel": True}})
    assert sorted(zip(frame["data"], frame["tensor"], strict=True)) == [(1, 8), (2, 4), (4, 2), (8, 1)]
    refused = frame.set_index("data")["refused"]
    assert "use a divisor of" in refused[1]
    assert "batch size 4 is not divisible by 8 workers" in refused[8]
    one = frame.set_index("split").loc["dp4-tp2-sp"]
    planned = plan(spec.replace(split={"data": 4, "tensor": {"size": 2, "sequence_parallel": True}}))
    assert one["communication_mib"] == expected_communication(planned)["bytes"].sum() / 2**20
    assert list(frame["memory_mib"].dropna()) == sorted(frame["memory_mib"].dropna())
    assert frame["memory_mib"].isna().sum() == 2


def test_what_a_way_holds_is_what_its_largest_worker_holds() -> None:
    spec = RunSpec(train={"global_batch_size": 4})
    way = choices(spec, 2, {"pipeline": {"num_microbatches": 2}}).iloc[0]
    workers = held(plan(spec.replace(split={"pipeline": {"size": 2, "num_microbatches": 2}}))).groupby("worker")["bytes"].sum()
    assert workers.min() < workers.max() == way["memory_mib"] * 2**20
