"""Inference: every split gives the outputs of one worker, moves the bytes of its formulas, and has its own figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import cases
from tests.test_conformance import MODELS
from tests.test_findings import row
from tests.test_runs import rows, workbench
from workbench.analysis.findings import findings
from workbench.cli.run import _judge
from workbench.errors import AssertionFailedError, SplitError
from workbench.plan.feasibility import plan
from workbench.spec import RunSpec

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


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_gives_the_outputs_of_one_worker_and_moves_the_bytes_of_its_formulas(split: str) -> None:
    cases.assert_split_as_by_formula({**MODELS["transformer"], **INFERENCE, "split": SPLITS[split]})


@pytest.mark.parametrize("split", ["data", "fsdp", "layer", "gpipe", "tensor"])
@pytest.mark.parametrize("model", ["mlp", "vit", "moe", "cnn", "lstm"])
def test_so_it_is_for_other_models(model: str, split: str) -> None:
    cases.assert_split_as_by_formula({**MODELS[model], **INFERENCE, "split": SPLITS[split]})


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"data": {"size": 2, "shard": "optimizer"}}, "inference has neither gradients nor an optimizer"),
        ({"data": {"size": 2, "compression": "bf16"}}, "inference has neither gradients nor an optimizer"),
        ({"pipeline": {**PIPELINE, "schedule": "zbv_zero_bubble", "num_microbatches": 4}}, "cannot run forward only"),
    ],
)
def test_what_is_about_training_is_refused(split: dict[str, Any], message: str) -> None:
    with pytest.raises(SplitError, match=message):
        plan(RunSpec(**{**MODELS["transformer"], **INFERENCE, "split": split}))


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


def test_only_training_must_have_a_loss() -> None:
    finished = row("dp2", 2, run_id="a", mode="inference", parity_ok=True)
    _judge([finished], [])
    with pytest.raises(AssertionFailedError, match="the loss is not finite"):
        _judge([{**finished, "mode": "train"}], [])


def test_findings_speak_of_latency() -> None:
    figures = {"mode": "inference", "compute_s": 0.04, "exposed_communication_s": 0.0, "idle_s": 0.0, "optimizer_s": 0.0}
    data = row("dp2", 2, step_time_s=0.05, step_time_p95_s=0.06, communication_bytes_per_step=0, **figures)
    tensor = {**data, "split": "tp2", "step_time_s": 0.06, "exposed_communication_s": 0.01}

    fastest, *limits = findings([data, tensor])

    assert fastest == "Of the splits, dp2 has the lowest latency per batch: 50.0 ms (95th percentile 60.0 ms)."
    assert limits == [
        "dp2: computing is 100% of the batch; its workers wait for nothing.",
        "tp2: computing is 80% of the batch; most of the rest is exposed communication, 20% (0.0 MiB move per batch).",
    ]
