"""How long runs are expected to take, and when those in a queue start."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.run_directory import new_run
from workbench.analysis.durations import Durations, QueueTimes
from workbench.spec import RunSpec
from workbench.spec.files import dumps
from workbench.store.directory import RunDirectory
from workbench.store.events import EventWriter, ReadyEvent
from workbench.store.run_status import RunState, RunStatus

CPU = frozenset({"cpu"})


def ended(store: Path, run_id: str, duration_s: float, spec: RunSpec) -> RunDirectory:
    run = new_run(store, run_id, dumps(spec))
    EventWriter(run.events_path(0)).write(ReadyEvent(rank=0, time=100.0))
    run.write_status(RunStatus(RunState.FINISHED, heartbeat=100.0 + duration_s))
    return run


def test_a_run_takes_as_long_as_those_of_its_spec_else_as_those_of_other_splits(tmp_path: Path) -> None:
    dp, tp, more = (RunSpec(split={name: {"size": 2}}) for name in ("data", "tensor", "layer"))
    other_work = RunSpec(split={"data": {"size": 2}}, train={"num_steps": 999})
    runs = [
        *(ended(tmp_path, f"dp-{s}", s, dp.replace(name=f"named {s}")) for s in (10.0, 20.0, 30.0)),
        ended(tmp_path, "tp", 50.0, tp),
        ended(tmp_path, "other", 7.0, other_work),
    ]
    durations = Durations()
    asked = {name: new_run(tmp_path, name, dumps(spec)) for name, spec in (("a", dp), ("b", more), ("c", other_work))}
    assert durations.expected_s(asked["a"], runs) == 20.0
    assert durations.expected_s(asked["b"], runs) == 25.0, "the median of all four"
    assert durations.expected_s(asked["c"], runs) == 7.0
    assert durations.expected_s(asked["c"], runs[:-1]) is None


@pytest.mark.parametrize(
    ("queue", "starts"),
    [
        ([("a", CPU, 5.0), ("b", CPU, 7.0), ("c", CPU, 1.0)], [0.0, 5.0, 12.0]),
        ([("a", CPU, 5.0), ("b", CPU, None), ("c", CPU, 1.0)], [0.0, 5.0, None]),
        (
            [("a", frozenset({"cuda:0"}), 5.0), ("b", frozenset({"cuda:1"}), 9.0), ("c", frozenset({"cuda:0", "cuda:1"}), 1.0)],
            [0.0, 0.0, 9.0],
        ),
    ],
)
def test_an_entry_starts_when_all_of_its_devices_are_free(
    queue: list[tuple[str, frozenset[str], float | None]], starts: list[float | None]
) -> None:
    times = QueueTimes.of(queue)
    assert [times.starts_in_s[name] for name, _, _ in queue] == starts
    last = queue[-1]
    expected = None if starts[-1] is None or last[2] is None else max(starts[-1] + last[2], 9.0 if len(last[1]) == 2 else 0.0)
    assert times.end_in_s(name for name, _, _ in queue) == expected
