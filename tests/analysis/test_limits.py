"""What limits a run: the right part grows by what was injected, and the sentence names it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from workbench.analysis.bubble import bubble
from workbench.analysis.limits import Evidence, Limit, limit, limit_of
from workbench.spec import RunSpec
from workbench.store.directory import RunDirectory

PLAIN = Evidence(
    "dp2",
    "step",
    1.0,
    (0.95, 0.95),
    0.01,
    0.0,
    {"data": 0.02},
    {"data": 0.02},
    bytes_per_step=2**20,
    spec=RunSpec(split={"data": 2}),
)
BUBBLE = {"order": 0.1, "imbalance": 0.0, "communication": 0.0, "rest": 0.0}
PIPELINE = replace(
    PLAIN, split="pp2", exposed={"pipeline": 0.02}, idle={"pipeline": 0.5}, bubble=BUBBLE, num_microbatches=4,
    stages_of_worker={0: (0, 3), 1: (1, 2)}, spec=RunSpec(split={"pipeline": 2}),
)  # fmt: skip


def named(evidence: Evidence) -> tuple[str, str]:
    found = limit(evidence)
    return found.kind, found.where


def test_a_run_of_which_nothing_else_is_notable_is_limited_by_compute() -> None:
    assert named(PLAIN) == ("compute", "")
    assert str(limit(PLAIN)).startswith("dp2 is limited by compute: 95% of the step, 950.0 ms of 1000.0 ms.")


@pytest.mark.parametrize(
    ("evidence", "kind", "where"),
    [
        (replace(PLAIN, exposed={"data": 0.1, "tensor": 0.3}), "communication", "tensor"),
        (replace(PLAIN, idle={"data": 0.2}, compute=(0.4, 0.8)), "imbalance", "worker 1"),
        (replace(PLAIN, idle={"data": 0.2}, compute=(0.6, 0.6)), "idle", "data"),
        (replace(PLAIN, optimizer=0.4), "optimizer", ""),
        (replace(PLAIN, schedule=0.4), "schedule", ""),
        (replace(PLAIN, data=1.0), "data", ""),
        (replace(PLAIN, ready=0.4, num_threads=4, num_cores=2), "oversubscription", ""),
        (PIPELINE, "bubble", "pipeline"),
        (replace(PIPELINE, bubble={**BUBBLE, "imbalance": 0.4}, compute=(0.8, 0.2)), "imbalance", "stages 0 and 3"),
        (replace(PIPELINE, bubble={**BUBBLE, "communication": 0.4}), "communication", "pipeline"),
        (replace(PIPELINE, bubble={**BUBBLE, "rest": 0.4}), "idle", "pipeline"),
    ],
)
def test_the_largest_part_beside_computing_is_named(evidence: Evidence, kind: str, where: str) -> None:
    assert named(evidence) == (kind, where)
    assert limit(evidence).advice.startswith("Try ")


@pytest.mark.parametrize(("num_bytes", "volume"), [(20 * 2**20, "20.0 MiB"), (2**15, "0.031 MiB")])
def test_little_communication_is_not_shown_as_nothing(num_bytes: int, volume: str) -> None:
    found = limit(replace(PLAIN, exposed={"data": 0.4}, bytes_per_step=num_bytes))
    assert f"; the communication volume is {volume}." in str(found)


def advice(evidence: Evidence, **split: Any) -> str:
    return limit(replace(evidence, spec=RunSpec(split=split, model="moe"))).advice


@pytest.mark.parametrize(
    ("axis", "split", "words"),
    [
        ("data", {"data": 2}, "(num_accumulation_steps), gradient compression or fewer workers along data"),
        ("data", {"fsdp": 2}, "gradient synchronization or fewer workers along data"),
        ("data", {"data": 2, "tensor": 2}, "gradient synchronization or fewer workers along data"),
        ("data+context", {"context": 2, "data": 2}, "gradient synchronization or fewer workers along data"),
        ("data", {"expert": 2}, "gradient synchronization or fewer workers along data"),
        ("expert", {"data": 4, "expert": 2}, "fewer workers along expert"),
        ("tensor", {"data": 2, "tensor": 2}, "fewer workers along tensor"),
        ("context", {"context": 2}, "split.context.attention"),
        ("pipeline", {"pipeline": 2}, "a partition with smaller activations"),
        ("pipeline", {"layer": 2}, "a partition with smaller activations"),
        ("another", {"data": 2}, "communicate less often"),
    ],
)
def test_advice_about_communication_is_that_of_the_strategy_on_the_axis(axis: str, split: dict[str, Any], words: str) -> None:
    assert words in advice(replace(PLAIN, exposed={axis: 0.4}), **split)


@pytest.mark.parametrize(
    ("split", "can_shard"),
    [({}, False), ({"tensor": 2}, False), ({"data": 2}, True), ({"data": {"size": 2, "shard": "parameters"}}, False)],
)
def test_only_replicas_are_advised_to_shard_the_optimizer_state(split: dict[str, Any], can_shard: bool) -> None:
    found = limit(replace(PLAIN, optimizer=0.4, spec=RunSpec(split=split)))
    assert ("split.data.shard = optimizer" in found.advice) is can_shard
    assert found.advice.endswith("a larger batch per update.")


def test_a_run_whose_plugin_is_not_here_has_advice_too() -> None:
    away = replace(PIPELINE, spec=None)
    assert limit(away).advice == "Try more microbatches than 4."
    assert limit(replace(away, exposed={"pipeline": 0.6})).advice == "Try to communicate less often."


def test_a_pipeline_of_one_microbatch_is_told_to_have_more_and_layers_to_be_a_pipeline() -> None:
    assert advice(PIPELINE, pipeline={"num_microbatches": 1}) == "Try more microbatches than 1."
    assert "Try more microbatches than 8 or a schedule with a smaller bubble" in advice(
        PIPELINE, pipeline={"num_microbatches": 8}
    )
    assert "split.pipeline" in advice(PIPELINE, layer=2)


@pytest.mark.parametrize("name", ["layer", "pipeline"])
def test_unequal_stages_are_told_the_partition_of_their_own_strategy(name: str) -> None:
    uneven = replace(PIPELINE, bubble={**BUBBLE, "imbalance": 0.4}, compute=(0.8, 0.2))
    assert f"split.{name}.partition = time" in advice(uneven, **{name: 2})


def test_threads_that_have_their_cores_are_not_called_too_many() -> None:
    assert named(replace(PLAIN, ready=0.4, num_threads=2, num_cores=2)) == ("compute", "")


# Real runs: sleeps of known length against milliseconds of computing. Real processes, a store of their own.

STEP = {"num_steps": 6, "num_warmup_steps": 1, "global_batch_size": 16}
SMALL = {"name": "delayed", "hidden_dim": 16, "feedforward_dim": 32}
TOLERANCE = 0.1


def run(store: Path, **spec: Any) -> RunDirectory:
    """A finished run of the model that is slow on purpose."""
    sets = {**spec, "measure.parity": False, "baseline.mode": "none", **{f"train.{key}": value for key, value in STEP.items()}}
    args = [word for path, value in sets.items() if path != "splits" for word in ("--set", f"{path}={_text(value)}")]
    args += [word for split in spec["splits"] for word in ("--split", split)]
    args += [word for key, value in SMALL.items() if key != "name" for word in ("--set", f"model.{key}={value}")]
    result = subprocess.run(
        [sys.executable, "-m", "workbench.cli.main", "run", "--model", "delayed", *args, "--json"],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "WORKBENCH_HOME": str(store), "WORKBENCH_PLUGINS": "workbench.testing.delays"},
        stdin=subprocess.DEVNULL,
    )
    assert result.returncode == 0, result.stderr
    return RunDirectory(store / "runs" / json.loads(result.stdout)["runs"][0]["run_id"])


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def figures(run: RunDirectory) -> tuple[dict[str, Any], Limit]:
    summary, found = run.summary(), limit_of(run)
    assert summary is not None
    assert found is not None
    return summary, found


@pytest.mark.clock
def test_a_slow_worker_makes_the_others_idle_by_as_much_and_is_named(tmp_path: Path) -> None:
    slow_s = 0.15
    before, _ = figures(run(tmp_path, splits=["data=2"]))
    delay = {"model.forward_s": slow_s, "model.block": "input", "model.rank": 1}
    after, found = figures(run(tmp_path, splits=["data=2"], **delay))
    grown = [
        {part: a[part] - b[part] for part in ("compute_s", "idle_s", "exposed_communication_s", "optimizer_s", "other_s")}
        for a, b in zip(after["workers"], before["workers"], strict=True)
    ]
    assert grown[1].pop("compute_s") == pytest.approx(slow_s, rel=TOLERANCE)
    assert grown[0].pop("idle_s") == pytest.approx(slow_s, rel=TOLERANCE)
    assert all(abs(seconds) < TOLERANCE * slow_s for worker in grown for seconds in worker.values()), grown
    assert (found.kind, found.where) == ("imbalance", "worker 1")


@pytest.mark.clock
def test_a_slow_link_makes_exposed_communication_longer_by_as_much_and_its_axis_is_named(tmp_path: Path) -> None:
    slow_s = 0.05
    before, _ = figures(run(tmp_path, splits=["tensor=2"]))
    directory = run(tmp_path, splits=["tensor=2"], **{"model.wait_s": slow_s})
    after, found = figures(directory)
    rows = [row for row in directory.table("communication").to_pylist() if row["rank"] == 0]
    count = len(rows) / len({row["step"] for row in rows})
    grown = {part: after[part] - before[part] for part in ("compute_s", "idle_s", "optimizer_s", "other_s")}
    exposed = after["exposed_communication_s"] - before["exposed_communication_s"]
    assert exposed == pytest.approx(count * slow_s, rel=TOLERANCE)
    assert all(abs(seconds) < TOLERANCE * count * slow_s for seconds in grown.values()), grown
    assert (found.kind, found.where) == ("communication", "tensor")


@pytest.mark.clock
def test_an_uneven_partition_adds_idle_time_of_imbalance_by_as_much_and_the_stage_is_named(tmp_path: Path) -> None:
    """Eight blocks that sleep 20 ms, four microbatches through two stages: evenly, 5 × 80 ms with 80 ms of bubble; two and
    six, 40 + 4 × 120 ms."""
    sleep = {"model.forward_s": 0.02, "model.num_layers": 6}
    pipeline = "pipeline=2,schedule=gpipe,num_microbatches=4"
    even = run(tmp_path, splits=[pipeline], **sleep, **{"split.pipeline.partition": [4, 4]})
    uneven = run(tmp_path, splits=[pipeline], **sleep, **{"split.pipeline.partition": [2, 6]})
    (before, of_even), (after, of_uneven) = figures(even), figures(uneven)
    parts, ideal = ({p: s for p, s, *_ in bubble(r).itertuples(index=False)} for r in (uneven, even))
    assert ideal["order"] == pytest.approx(0.08, rel=TOLERANCE)
    assert parts["order"] == pytest.approx(0.08, rel=TOLERANCE)
    assert parts["imbalance"] - ideal["imbalance"] == pytest.approx(0.12, rel=TOLERANCE)
    assert after["idle_s"] - before["idle_s"] == pytest.approx(0.12, rel=TOLERANCE)
    assert abs(after["compute_s"] - before["compute_s"]) < TOLERANCE * 0.12
    assert (of_even.kind, of_even.where) == ("bubble", "pipeline")
    assert (of_uneven.kind, of_uneven.where) == ("imbalance", "stage 1")
