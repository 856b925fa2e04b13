"""Runs of different work are not compared, and the sentence names what differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.rows import row
from tests.helpers.run_directory import new_run
from workbench.analysis import memory_limits
from workbench.analysis.findings import findings_on
from workbench.analysis.memory_limits import MemoryLimit
from workbench.analysis.work import different_work, same_work
from workbench.spec import RunSpec
from workbench.spec.files import dumps
from workbench.store.directory import RunDirectory

MLP: dict[str, Any] = {"name": "mlp", "hidden_dim": 64}
WIDE = {"model": {**MLP, "hidden_dim": 128}}


def run_of(store: Path, run_id: str, num_workers: int = 1, **values: Any) -> RunDirectory:
    spec = RunSpec(**{"model": MLP, **values})
    return new_run(store, run_id, dumps(spec), num_workers=num_workers, split=run_id)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (WIDE, "model.hidden_dim 64 and 128"),
        ({"train": {"global_batch_size": 32}}, "train.global_batch_size 16 and 32"),
        ({"model": "transformer"}, "model.name mlp and transformer; dataset.name digits and text"),
        (
            {"train": {"seed": 1, "learning_rate": 0.1, "optimizer": "sgd", "global_batch_size": 32, "max_gradient_norm": 1.0}},
            "train.global_batch_size 16 and 32; train.optimizer adamw and sgd; train.max_gradient_norm unset and 1.0",
        ),
        (
            {"train": {"weight_decay": 0.1, "precision": "bf16", "checkpointing": "full", "max_gradient_norm": 1.0}},
            "train.precision fp32 and bf16; train.checkpointing none and full; train.weight_decay unset and 0.1 and 1 more",
        ),
        ({"mode": "inference", "train": {"optimizer": "sgd"}, "inference": {"num_new_tokens": 4}}, "mode train and inference"),
    ],
)
def test_what_differs_between_the_work_of_runs_is_named(tmp_path: Path, values: dict[str, Any], named: str) -> None:
    first, other = run_of(tmp_path, "first"), run_of(tmp_path, "other", **values)
    sentence = f"These runs do different work ({named}): their times and memory do not compare the splits."
    assert different_work([first, first, other]) == sentence
    assert same_work([first, other], other) == [other]


def test_the_split_and_how_it_is_run_and_measured_are_not_the_work(tmp_path: Path) -> None:
    how: dict[str, Any] = {
        "name": "b",
        "split": {"data": 2},
        "launch": {"threads_per_worker": 2},
        "measure": {"num_trace_steps": 1},
    }
    how["train"] = {"num_steps": 50, "num_warmup_steps": 1, "seed": 1}
    runs = [run_of(tmp_path, "a"), run_of(tmp_path, "b", **how, link={"preset": "wan"}, baseline={"mode": "none"})]
    assert different_work(runs) == ""
    assert same_work(runs, runs[0]) == runs


@pytest.mark.parametrize(
    ("common", "values"),
    [
        ({}, {"train": {"learning_rate": 0.1, "betas": [0.9, 0.95], "lr_schedule": "cosine", "min_lr_ratio": 0.1}}),
        ({}, {"inference": {"prompt_length": 4, "num_new_tokens": 4}}),
        ({"mode": "inference"}, {"train": {"optimizer": "sgd", "checkpointing": "full"}, "inference": {"prompt_length": 4}}),
        ({"dataset": {"name": "synthetic", "kind": "features"}}, {"dataset": {"name": "synthetic", "kind": "features", "seed": 1,
                                                                               "height": 8}}),
        ({"files": {"split.pipeline.schedule_file": "a"}}, {"files": {"split.pipeline.schedule_file": "b"}}),
    ],
)  # fmt: skip
def test_options_without_effect_or_cost_are_not_the_work(tmp_path: Path, common: dict[str, Any], values: dict[str, Any]) -> None:
    runs = [run_of(tmp_path, "a", **common), run_of(tmp_path, "b", **common | values)]
    assert different_work(runs) == ""
    assert same_work(runs, runs[0]) == runs


@pytest.mark.parametrize(
    ("common", "values", "named"),
    [
        (
            {"mode": "inference", "inference": {"num_new_tokens": 4}},
            {"inference": {"num_new_tokens": 8}},
            "num_new_tokens 4 and 8",
        ),
        ({"dataset": {"name": "synthetic"}}, {"dataset": {"name": "synthetic", "padded": True}}, "dataset.padded false and true"),
        ({"files": {"dataset.path": "a"}}, {"files": {"dataset.path": "b"}}, "files.dataset.path a and b"),
    ],
)
def test_options_are_the_work_where_they_have_an_effect(
    tmp_path: Path, common: dict[str, Any], values: dict[str, Any], named: str
) -> None:
    assert named in different_work([run_of(tmp_path, "a", **common), run_of(tmp_path, "b", **common | values)])


def test_runs_whose_plugin_is_not_installed_are_compared_as_recorded(tmp_path: Path) -> None:
    text = dumps(RunSpec(model=MLP)).replace('"mlp"', '"elsewhere"')
    runs = [new_run(tmp_path, "a", text), new_run(tmp_path, "b", text.replace("hidden_dim = 64", "hidden_dim = 128"))]
    assert "(model.hidden_dim 64 and 128)" in different_work(runs)


def test_the_memory_of_another_width_is_not_that_of_one_worker(tmp_path: Path) -> None:
    runs = [run_of(tmp_path, "wide", **WIDE), run_of(tmp_path, "narrow", 2)]
    rows = [row("wide", 1, run_id="wide", step_time_s=1.0, peak_memory_bytes=1000)]
    rows += [row("narrow", 2, run_id="narrow", step_time_s=0.1, peak_memory_bytes=100, speedup=2.0)]
    (sentence,) = findings_on(runs, rows)
    assert sentence.startswith("These runs do different work (model.hidden_dim 128 and 64)")


def test_a_share_of_memory_is_of_one_worker_that_does_the_same_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = {"wide": 1000, "narrow": 100, "split": 90}
    monkeypatch.setattr(memory_limits, "memory_limit", lambda run: MemoryLimit("activations", 0.6, 0, peaks[run.id]))
    wide, narrow, split = run_of(tmp_path, "wide", **WIDE), run_of(tmp_path, "narrow"), run_of(tmp_path, "split", 2)
    assert list(memory_limits.sentences([wide, split])) == []
    assert memory_limits.sentences([wide, narrow, split])["split"].startswith("split needs 90% of one worker's memory")
