"""How long runs are expected to take."""

from __future__ import annotations

from pathlib import Path

from tests.helpers.run_directory import new_run
from workbench.analysis.durations import Durations
from workbench.spec import RunSpec
from workbench.spec.files import dumps
from workbench.store.directory import RunDirectory
from workbench.store.events import EventWriter, ReadyEvent
from workbench.store.run_status import RunState, RunStatus


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
    assert durations.expected_s(dp, runs) == 20.0, "before it is submitted"
