"""Schedules: from a file, in time chunks, and whether each can run as many microbatches as its check lets through."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import cases
from workbench.errors import SplitError
from workbench.plan.resolve import plan
from workbench.registry import SCHEDULES
from workbench.spec import RunSpec
from workbench.spec.files import dumps, load, override
from workbench.strategies.pipeline.schedules import action_order
from workbench.strategies.pipeline.schedules.to_csv import rows_of
from workbench.strategies.pipeline.stages import staged_strategy
from workbench.testing.cover import cover
from workbench.testing.workers import run_in_workers

MLP = {"model": {"name": "mlp", "num_layers": 6, "hidden_dim": 16, "feedforward_dim": 32}, "dataset": "digits"}
SERIES = {"name": "sunspots", "length": 60}
GRU = {"model": {"name": "lstm", "cell": "gru", "num_layers": 3, "hidden_dim": 8}, "dataset": SERIES}
LSTM = {"model": {"name": "lstm", "num_layers": 2, "hidden_dim": 8}, "dataset": {"name": "text", "sequence_length": 12}}
TRAIN = {"num_steps": 1, "num_warmup_steps": 0, "global_batch_size": 8}
ONE_F_ONE_B = ("0F0,0F1,,0B0,,0B1", ",1F0,1B0,1F1,1B1")


def spec_of(model: dict[str, Any], schedule: str, size: int = 2, num_microbatches: int = 2, **options: Any) -> dict[str, Any]:
    pipeline = {"size": size, "schedule": schedule, "num_microbatches": num_microbatches, **options}
    return {**model, "split": {"pipeline": pipeline}, "train": TRAIN}


def from_rows(*rows: str, **options: Any) -> dict[str, Any]:
    return spec_of(MLP, "csv", actions=rows, **options)


FROM_FILE = {
    "1F1B": ONE_F_ONE_B,
    "split backward, placed as a V": (
        "0F0,0F1,3F0,3F1,3I0,3I1,3W0,3W1,0I1,0I0,0W0,0W1",
        "1F0,1F1,2F0,2F1,2B0,2B1,1B1,1B0",
    ),
    "microbatches in any order, two stages on one worker and one on the other": (
        "0F1,0F0,2F0,2F1,2B1,2B0,0B0,0B1",
        "1F0,1F1,1B1,1B0",
    ),
}


@pytest.mark.parametrize("name", FROM_FILE)
def test_an_order_from_a_file_equals_one_worker_and_its_formulas(name: str) -> None:
    cases.assert_split_as_by_formula(from_rows(*FROM_FILE[name]))


def test_an_order_from_a_file_is_averaged_over_replicas() -> None:
    spec = from_rows(*FROM_FILE["microbatches in any order, two stages on one worker and one on the other"])
    cases.assert_split_as_by_formula({**spec, "split": {**spec["split"], "data": 2}})


def test_an_order_from_a_file_runs_forward_only() -> None:
    cases.assert_split_as_by_formula({**from_rows(*ONE_F_ONE_B), "mode": "inference"})


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (("0F0,0X0", "1F0"), "cell 2 of worker 0 is '0X0', which is not an action"),
        (("0F0,0F1,0B0,0B1",), "has 1 rows, but there are 2 workers"),
        (("0F0,0F1,0B0,0B1", ",,"), "has no actions for worker 1"),
        (("0F0,0F1,0B0,0B1", "1F0,0B0"), r"stage 0 is on worker 0 \(0F0\) and on worker 1 \(0B0\)"),
        (("0F0,0F1,0F2", "1F0"), "0F2 of worker 0 has microbatch 2, but num_microbatches = 2; use 0 to 1"),
        (("0F0,0F1,0B0,0B1,0B0", "1F0,1F1,1B0,1B1"), "0B0 occurs twice in the row of worker 0"),
        (("0F0,0F1,0B0,0B1", "2F0,2F1,2B0,2B1"), "has stage 2, but no worker has stage 1"),
        (("0F0,0F1,0B0,0B1", "1F0,1F1,1B1"), "worker 1 has 1F0 of stage 1 and microbatch 0; use 1F0, and 1B0 or 1I0 and 1W0"),
        (("0F0,0F1,0B0,0B1", "1F0,1F1,1B0,1B1,1W1"), "worker 1 has 1F1 and 1B1 and 1W1 of stage 1 and microbatch 1"),
        (
            ("0F0,0F1,0B0,0B1", "1B0,1F0,1F1,1B1"),
            "worker 1 can never run 1B0: it waits for 1F0, which comes later",
        ),
        (
            ("0F0,0B0,0F1,0B1", "1F0,1F1,1B0,1B1"),
            "worker 0 can never run 0B0: it waits for 1B0, while worker 1 waits for 0F1 before 1F1",
        ),
        (("0F1,0F0,0B0,0B1", "1F1,1F0,1B0,1B1"), "the forward passes of the last stage, 1, run in the order 1, 0"),
    ],
)
def test_an_order_that_cannot_run_is_refused_with_the_worker_and_the_action(rows: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(SplitError, match=sentence):
        plan(RunSpec(**from_rows(*rows)))


def test_a_spec_keeps_the_order_when_its_file_is_gone(tmp_path: Path) -> None:
    path, recorded = tmp_path / "order.csv", tmp_path / "spec.toml"
    path.write_text("\n".join(ONE_F_ONE_B) + "\n")
    spec = RunSpec(**spec_of(MLP, "csv", schedule_file=str(path)))
    recorded.write_text(dumps(spec))
    path.unlink()
    assert load(recorded) == spec
    assert [str(a) for a in plan(load(recorded)).strategies[0].schedule.order[1]] == ["1F0", "1B0", "1F1", "1B1"]  # type: ignore[attr-defined]
    with pytest.raises(SplitError, match="cannot read"):
        RunSpec(**spec_of(MLP, "csv", schedule_file=str(path)))


def test_an_order_from_a_file_without_its_schedule_or_the_schedule_without_a_file_is_refused() -> None:
    with pytest.raises(SplitError, match='requires schedule = "csv", but schedule = "gpipe"'):
        plan(RunSpec(**spec_of(MLP, "gpipe", actions=ONE_F_ONE_B)))
    with pytest.raises(SplitError, match="set it to a file"):
        plan(RunSpec(**spec_of(MLP, "csv")))


CHUNKED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "lstm of tokens": ({**LSTM}, {"num_microbatches": 4}),
    "gru of a series, 3 stages, more chunks than samples": ({**GRU}, {"size": 3, "num_microbatches": 10}),
    "lstm of a series, one chunk": ({**LSTM, "dataset": SERIES}, {"num_microbatches": 1}),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * ("size" in options)) for name, (_, options) in CHUNKED.items()]
)
def test_time_chunks_equal_the_whole_sequence_on_one_worker_and_their_formulas(name: str) -> None:
    model, options = CHUNKED[name]
    cases.assert_split_as_by_formula(spec_of(model, "time_chunks", **options))


@pytest.mark.slow
@pytest.mark.parametrize("data", [{"size": 2}, {"size": 2, "shard": "parameters"}], ids=["replicated", "sharded"])
def test_time_chunks_are_averaged_over_replicas(data: dict[str, Any]) -> None:
    spec = {**spec_of(GRU, "time_chunks", num_microbatches=4), "measure": {"num_trace_steps": 1}}
    spec["split"] = {**spec["split"], "data": data}
    report = run_in_workers(4, cases.parity, spec, None)[0]
    assert report["ok"], report
    assert report["max_error"] <= 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("cut", ["gates", "hidden"])
def test_time_chunks_pass_through_sliced_layers(cut: str) -> None:
    spec = spec_of(LSTM, "time_chunks", num_microbatches=3)
    cases.assert_split_as_by_formula({**spec, "split": {**spec["split"], "tensor": {"size": 2, "cut": {"recurrent": cut}}}})


@pytest.mark.parametrize("change", [{"mode": "inference"}, {"train": {**TRAIN, "checkpointing": "full"}}], ids=str)
def test_time_chunks_run_forward_only_and_recompute(change: dict[str, Any]) -> None:
    cases.assert_split_as_by_formula({**spec_of(LSTM, "time_chunks", num_microbatches=3), **change})


def forgetting(rank: int, recorder: Any, control: Any, spec: dict[str, Any]) -> Any:
    """Parity where a gradient of zeros goes from a chunk to the one before."""
    from workbench.models.lstm_modules import Recurrent

    right = Recurrent.forward_with_state
    Recurrent.forward_with_state = lambda self, x, state=None: right(self, x, tuple(s.detach() + 0 * s for s in state or ()))
    return cases.parity(rank, recorder, control, spec, None)


def test_parity_notices_a_gradient_that_stops_between_chunks() -> None:
    assert not run_in_workers(2, forgetting, spec_of(LSTM, "time_chunks"))[0]["ok"]


def spans(rank: int, recorder: Any, control: Any, spec: dict[str, Any]) -> list[tuple[str, int, int]]:
    cases.training(rank, recorder, control, spec)
    step = recorder.spans[0].step
    passes = [s for s in recorder.spans if s.step == step and s.microbatch is not None and s.name != "loss"]
    return [(s.kind, s.stage, s.microbatch) for s in passes]


def test_chunks_pass_forward_in_turn_and_backward_in_reverse() -> None:
    for stage, recorded in enumerate(run_in_workers(2, spans, spec_of(LSTM, "time_chunks", num_microbatches=3))):
        assert recorded == [("forward", stage, i) for i in (0, 1, 2)] + [("backward", stage, i) for i in (2, 1, 0)]


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (spec_of(MLP, "time_chunks"), "mlp does not support time_chunks"),
        (spec_of(LSTM, "time_chunks", num_microbatches=5), r"a sequence of 12 is not divisible into 5 chunks \(remainder 2\)"),
        (spec_of(LSTM, "time_chunks", stages_per_worker=2), "time_chunks supports 1 stage"),
        ({**spec_of(LSTM, "time_chunks"), "train": {**TRAIN, "checkpointing": "selective"}}, "use full"),
    ],
)
def test_what_time_chunks_cannot_serve_is_refused_with_the_arithmetic(spec: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SplitError, match=sentence):
        plan(RunSpec(**spec))


def test_a_batch_that_does_not_divide_into_microbatches_says_what_does() -> None:
    split = {"pipeline": {"size": 2, "num_microbatches": 5}}
    with pytest.raises(SplitError, match=r"into 5 microbatches \(remainder 1\); use 1, 2, 4, 8 or 16"):
        plan(RunSpec(**MLP, split=split, train={"global_batch_size": 16}))


def of_schedule(schedule: str, size: int, num_microbatches: int) -> dict[str, Any]:
    """A spec that the schedule alone can refuse: batch and sequence divide, there are blocks enough."""
    spec = spec_of(GRU if schedule == "time_chunks" else MLP, schedule, size, num_microbatches)
    return {**spec, "train": {**TRAIN, "global_batch_size": 2 * num_microbatches}}


NUMBERS = [(size, count) for size in (2, 3) for count in (1, 2, 3, 4, 5)]
RUN_ALWAYS = ("gpipe", "looped_bfs", "time_chunks", "zbv_zero_bubble")
WHOLE_ROUNDS = ("interleaved_1f1b", "interleaved_zero_bubble")  # m must divide into ⌊m/p⌋ rounds, at least one
SCHEDULED = [(name, *numbers) for name in SCHEDULES.names() if name != "csv" for numbers in NUMBERS]


def is_served(schedule: str, size: int, num_microbatches: int) -> bool:
    """What the schedules' papers and torch's checks say, apart from ours."""
    if schedule in WHOLE_ROUNDS:
        return num_microbatches % max(1, num_microbatches // size) == 0
    return schedule in RUN_ALWAYS or num_microbatches >= {"1f1b": size, "dualpipev": 2 * size}[schedule]


@pytest.mark.parametrize(("schedule", "size", "num_microbatches"), SCHEDULED)
def test_a_schedule_plays_to_its_end_or_is_refused(schedule: str, size: int, num_microbatches: int) -> None:
    spec = RunSpec(**of_schedule(schedule, size, num_microbatches))
    if not is_served(schedule, size, num_microbatches):
        with pytest.raises(SplitError, match=r"split\.pipeline\.num_microbatches"):
            plan(spec)
        return
    plan(spec)
    strategy: Any = staged_strategy(spec)
    if strategy.schedule.has_actions:
        order = action_order.read(rows_of(strategy.schedule))
        action_order.check(order, size, num_microbatches)
        held = {a.stage: worker for worker, actions in enumerate(order) for a in actions}
        assert [held[stage] for stage in sorted(held)] == strategy.worker_of_stage


def in_ci(served: list[tuple[str, int, int]]) -> list[Any]:
    """Every schedule with every number of workers and of microbatches that it serves; the others with ``-m cross``."""
    covered = cover(served, lambda case: {("size", *case[:2]), ("microbatches", case[0], case[2])})
    return [
        pytest.param(*case, marks=(pytest.mark.slow, pytest.mark.cross) if case in covered else pytest.mark.cross)
        for case in served
    ]


@pytest.mark.parametrize(("schedule", "size", "num_microbatches"), in_ci([case for case in SCHEDULED if is_served(*case)]))
def test_a_schedule_that_is_not_refused_ends_and_equals_one_worker(schedule: str, size: int, num_microbatches: int) -> None:
    cases.assert_split_as_by_formula(of_schedule(schedule, size, num_microbatches))


def test_the_actions_of_a_schedule_run_as_a_file(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "workbench.cli.main", "schedules", "--actions", "zbv_zero_bubble", "--microbatches", "3"]
    written = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (tmp_path / "zbv.csv").write_text(written)
    spec = spec_of(MLP, "csv", num_microbatches=3, schedule_file=str(tmp_path / "zbv.csv"))
    cases.assert_split_as_by_formula({**spec, "train": {**TRAIN, "global_batch_size": 6}})


def test_a_partition_is_given_in_brackets_on_the_command_line() -> None:
    splits = ["layer=3,partition=[2, 3,1]"]
    assert override({}, model=None, dataset=None, splits=splits, sets=[])["split"] == {
        "layer": {"size": 3, "partition": [2, 3, 1]}
    }
    quoted = override({}, model=None, dataset=None, splits=['pipeline=2,schedule_file="a,b.csv",schedule=csv'], sets=[])
    assert quoted["split"]["pipeline"] == {"size": 2, "schedule_file": "a,b.csv", "schedule": "csv"}


def test_a_partition_by_time_evens_out_the_times() -> None:
    strategy: Any = staged_strategy(RunSpec(model="mlp", split={"layer": {"size": 2, "partition": "time"}}))
    assert strategy.with_partition_by({"a": 5.0, "b": 1.0, "c": 1.0, "d": 2.0}).partition == (1, 3)


@pytest.mark.slow
def test_a_run_cut_by_time_records_the_times_and_the_partition_that_they_make(tmp_path: Path) -> None:
    arguments = ["run", "--model", "mlp", "--split", "layer=2,partition=time", "--json"]
    sets = ["train.num_steps=1", "train.num_warmup_steps=0", "baseline.mode=none", "model.hidden_dim=16", "model.num_layers=3"]
    command = [sys.executable, "-m", "workbench.cli.main"]
    environment = {**os.environ, "WORKBENCH_HOME": str(tmp_path)}
    options = [part for text in sets for part in ("--set", text)]
    done = subprocess.run([*command, *arguments, *options], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(done.stdout)["runs"]
    assert run["parity_ok"]
    directory = tmp_path / "runs" / run["run_id"]
    times = json.loads((directory / "run.json").read_text())["block_times_s"]
    assert list(times) == [b.name for b in plan(load(directory / "spec.toml")).full_model.blocks]
    assert all(time_s > 0 for time_s in times.values())
    strategy: Any = staged_strategy(load(directory / "spec.toml"))
    assert strategy.options.partition == strategy.with_partition_by(times).partition
    process = subprocess.run([*command, "show", run["run_id"]], capture_output=True, text=True, env=environment)
    assert "measured before the run" in process.stdout
