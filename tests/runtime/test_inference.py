"""Inference: every split gives the outputs of one worker, communicates the bytes of its formulas, and has its own figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import workbench as wb
from tests.helpers import cases
from tests.helpers.process import rows, workbench
from tests.helpers.rows import row
from tests.helpers.sizes import larger_are_slow
from workbench.analysis.findings import findings
from workbench.cli.run import check_results
from workbench.errors import AssertionFailedError, SpecError, SplitError
from workbench.plan import compatibility
from workbench.plan.resolve import plan
from workbench.runtime.tracing.recorder import Operation, Recorder
from workbench.runtime.tracing.wait_attribution import attribute_waits
from workbench.spec import RunSpec
from workbench.testing.workers import run_in_workers

MODELS = compatibility.models()
PIPELINE = {"size": 2, "num_microbatches": 2}
SPLITS: dict[str, dict[str, Any]] = {
    "data": {"data": 2},
    "fsdp": {"fsdp": {"size": 2}},
    "layer": {"layer": 2},
    "gpipe": {"pipeline": {**PIPELINE, "schedule": "gpipe"}},
    "1f1b": {"pipeline": {**PIPELINE, "schedule": "1f1b"}},
    "interleaved": {"pipeline": {**PIPELINE, "schedule": "interleaved_1f1b"}},
    "tensor": {"tensor": 2},
    "context": {"context": 2},
    "context, gathered": {"context": {"size": 2, "attention": "all_gather"}},
    "data, pipeline": {"data": 2, "pipeline": PIPELINE},
    "layer, tensor": {"layer": 2, "tensor": 2},
}
TRAIN = {"num_steps": 2, "num_warmup_steps": 0, "global_batch_size": 8}
INFERENCE = {"mode": "inference", "train": TRAIN}


@pytest.mark.parametrize("split", larger_are_slow(SPLITS, SPLITS.__getitem__))
def test_a_split_gives_the_outputs_of_one_worker_and_communicates_the_bytes_of_its_formulas(split: str) -> None:
    cases.assert_split_as_by_formula({**MODELS["transformer"], **INFERENCE, "split": SPLITS[split]})


@pytest.mark.cross
@pytest.mark.parametrize("split", ["data", "fsdp", "layer", "gpipe", "tensor"])
@pytest.mark.parametrize("model", ["mlp", "vit", "moe", "cnn", "lstm", "transformer, tied"])
def test_so_it_is_for_other_models(model: str, split: str) -> None:
    cases.assert_split_as_by_formula({**MODELS[model], **INFERENCE, "split": SPLITS[split]})


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"data": {"size": 2, "shard": "optimizer"}}, 'requires mode = "train": inference has no optimizer state'),
        ({"data": {"size": 2, "compression": "bf16"}}, 'requires mode = "train": inference has no gradients'),
        ({"pipeline": {**PIPELINE, "schedule": "zbv_zero_bubble", "num_microbatches": 4}}, "does not support inference"),
    ],
)
def test_what_is_about_training_is_refused(split: dict[str, Any], message: str) -> None:
    with pytest.raises(SplitError, match=message):
        plan(RunSpec(**{**MODELS["transformer"], **INFERENCE, "split": split}))


@pytest.mark.slow
def test_a_run_shows_latency_beside_its_baseline(tmp_path: Path) -> None:
    small = [f"--set=model.{key}={value}" for key, value in MODELS["mlp"]["model"].items() if key != "name"]
    arguments = ("--model", "mlp", *small, "--set=mode=inference", "--split=tensor=2", "--set=train.num_steps=4")

    result = workbench(tmp_path, "run", *arguments, "--json", "--assert", "parity_ok == true and speedup > 0")

    assert result.returncode == 0, result.stderr
    *baselines, run = rows(result)
    assert [baseline["mode"] for baseline in baselines] == ["inference"] * 2
    assert run["step_time_s"] <= run["step_time_p90_s"] <= run["step_time_p95_s"]
    assert run["speedup"] == pytest.approx(baselines[0]["step_time_s"] / run["step_time_s"])
    assert run["samples_per_s"] == pytest.approx(16 / run["step_time_s"])
    assert [run[column] for column in ("final_loss", "time_to_first_token_s", "generated_tokens_per_s")] == [None] * 3
    shown = workbench(tmp_path, "show", run["run_id"]).stdout
    assert "latency per batch: median" in shown
    assert "optimizer" not in shown, "there is none"


def test_nothing_goes_backward_in_the_timeline_of_a_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    split = {"pipeline": {**PIPELINE, "schedule": "gpipe"}}
    kinds = set(
        wb.run(RunSpec(**{**MODELS["mlp"], **INFERENCE, "split": split, "baseline": {"mode": "none"}})).timeline()["kind"]
    )
    assert "forward" in kinds
    assert "backward" not in kinds


def test_only_training_must_have_a_loss() -> None:
    finished = row("dp2", 2, run_id="a", mode="inference", parity_ok=True)
    check_results([finished], [])
    with pytest.raises(AssertionFailedError, match="the final loss is not finite"):
        check_results([{**finished, "mode": "train"}], [])


def test_findings_speak_of_latency() -> None:
    figures = {"mode": "inference", "compute_s": 0.04, "exposed_communication_s": 0.0, "idle_s": 0.0, "optimizer_s": 0.0}
    data = row("dp2", 2, step_time_s=0.05, step_time_p95_s=0.06, communication_bytes_per_step=0, **figures)
    tensor = {**data, "split": "tp2", "step_time_s": 0.06, "exposed_communication_s": 0.01}

    fastest, *_ = findings([data, tensor])

    assert fastest == "Among the splits, dp2 has the lowest latency: 50.0 ms (95th percentile 60.0 ms)."


GENERATION = {**INFERENCE, "inference": {"prompt_length": 5, "num_new_tokens": 4}}
GENERATING: dict[str, tuple[str, dict[str, Any]]] = {
    "single": ("transformer", {}),
    "data": ("transformer", {"data": 2}),
    "fsdp": ("transformer", {"fsdp": {"size": 2}}),
    "layer": ("transformer", {"layer": 2}),
    "layer, 3 workers": ("transformer", {"layer": 3}),
    "gpipe": ("transformer", {"pipeline": {**PIPELINE, "schedule": "gpipe"}}),
    "gpipe, 3 workers": ("transformer", {"pipeline": {"size": 3, "schedule": "gpipe", "num_microbatches": 4}}),
    "tensor": ("transformer", {"tensor": 2}),
    "tensor, cut by hidden": ("transformer", {"tensor": {"size": 2, "cut": {"embedding": "hidden", "head": "hidden"}}}),
    "layer, tensor": ("transformer", {"layer": 2, "tensor": 2}),
    "data, pipeline": ("transformer", {"data": 2, "pipeline": PIPELINE}),
    "fsdp, layer": ("transformer", {"fsdp": {"size": 2}, "layer": 2}),
    "llama-like, tensor": ("transformer, llama-like", {"tensor": 2}),
    "llama-like, embedding alone, tensor": (
        "transformer, llama-like",
        {"layer": {"size": 2, "partition": [1, 3]}, "tensor": 2},
    ),
    "llama-like, layer": ("transformer, llama-like", {"layer": 2}),
    "tied, layer": ("transformer, tied", {"layer": 2}),
    "moe, data": ("moe", {"data": 2}),
    "moe, gpipe": ("moe", {"pipeline": {**PIPELINE, "schedule": "gpipe"}}),
}


@pytest.mark.parametrize("case", larger_are_slow(GENERATING, lambda case: GENERATING[case][1]))
def test_a_split_generates_the_tokens_of_one_worker_and_communicates_the_bytes_of_its_formulas(case: str) -> None:
    model, split = GENERATING[case]
    cases.assert_split_as_by_formula({**MODELS[model], **GENERATION, "split": split})


@pytest.mark.parametrize("fault", ["other token", "token not taken"])
def test_parity_notices_a_wrong_token(fault: str) -> None:
    report = run_in_workers(2, cases.parity, {**MODELS["transformer"], **GENERATION, "split": {"layer": 2}}, fault)[0]
    assert not report["ok"]
    assert report["tensor"] == "tokens"


@pytest.mark.parametrize("num_new_tokens", [1, 4])
def test_only_new_positions_and_the_tokens_travel(num_new_tokens: int) -> None:
    spec = {**MODELS["transformer"], **GENERATION, "split": {"layer": 2}}
    spec["inference"] = {"prompt_length": 5, "num_new_tokens": num_new_tokens}
    sent_bytes = {}
    for rank, result in enumerate(run_in_workers(2, cases.training, spec)):
        sent_bytes[rank] = sum(t["payload_bytes"] for t in result["communication"] if t["operation"] == "send")
        assert set(result["tokens"]) == {8 * num_new_tokens}
    batch, hidden = 8, 16
    assert sent_bytes == {0: batch * (5 + num_new_tokens - 1) * hidden * 4, 1: batch * num_new_tokens * 8}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "train"}, 'inference.num_new_tokens: 4 requires mode = "inference", but mode = "train"'),
        (MODELS["lstm"], "lstm does not support generation with a key/value cache"),
        (MODELS["moe, dropping"], r"moe with capacity_factor = 1\.0 does not support generation"),
        (
            {"inference": {"prompt_length": 13, "num_new_tokens": 4}},
            "a prompt of 13 and 4 new tokens need 17 positions, but the model has 16; generate at most 3",
        ),
        ({"split": {"context": 2}}, "split.context: does not support generation, since a new token is a single position"),
        ({**MODELS["moe"], "split": {"expert": 2}}, "split.expert: does not support generation"),
        ({"split": {"tensor": {"size": 2, "sequence_parallel": True}}}, "sequence_parallel does not support generation"),
        ({"split": {"tensor": {"size": 2, "parallel_loss": True}}}, "parallel_loss does not support generation"),
        (
            {"split": {"pipeline": {**PIPELINE, "schedule": "interleaved_1f1b"}}},
            "one stage per worker, but there are 4 stages on 2 workers",
        ),
        ({"train": {**TRAIN, "compile": True}}, "train.compile"),
    ],
)
def test_what_cannot_generate_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        plan(RunSpec(**{**MODELS["transformer"], **GENERATION, **changes}))


def test_a_generation_shows_first_and_later_tokens_beside_its_baseline(tmp_path: Path) -> None:
    small = [f"--set=model.{key}={value}" for key, value in MODELS["transformer"]["model"].items() if key != "name"]
    generation = ("--set=mode=inference", "--set=inference.num_new_tokens=4", "--set=train.num_steps=3")

    result = workbench(
        tmp_path, "run", "--model=transformer", *small, *generation, "--split=layer=2", "--json", "--assert", "parity_ok == true"
    )

    assert result.returncode == 0, result.stderr
    for run in rows(result):
        first, later = run["time_to_first_token_s"], run["time_per_token_s"]
        assert 0 < first < run["step_time_s"] <= run["step_time_p95_s"]
        assert first + 3 * later == pytest.approx(run["step_time_s"], rel=0.9), "medians of parts that sum up in each step"
        assert run["generated_tokens_per_s"] == pytest.approx(16 * 4 / run["step_time_s"])
        assert run["tokens_per_s"] == pytest.approx(16 * (16 + 4) / run["step_time_s"])
    shown = workbench(tmp_path, "show", run["run_id"]).stdout
    assert "generation: time to first token" in shown


def test_a_send_that_is_waited_for_last_takes_nothing_from_the_waits_before() -> None:
    early_send, receive = (
        Operation(name, "group", 2, pair, 1, 1, "forward", 8, "int64", 0, entered, wait_started=wait_started, ended=ended)
        for name, pair, entered, wait_started, ended in (("send", (0, 1), 0.0, 9.0, 10.0), ("recv", (1, 0), 1.0, 1.0, 4.0))
    )
    attribute_waits(Recorder(operations=[early_send, receive]), None, num_workers=1)
    assert (receive.wait_s, early_send.wait_s) == (3.0, 1.0)
