"""A spec, its differences from the defaults, its command, its script and its link all say the same."""

from __future__ import annotations

import shlex
from typing import Any

import click
import pytest

from workbench.api.specs import four_strategies
from workbench.cli.run import run_command
from workbench.spec import RunSpec
from workbench.spec.files import override, parse_value
from workbench.spec.paths import command, differences, script, spec_of, value_text

SPECS: dict[str, dict[str, Any]] = {
    "default": {},
    "combined": {"split": {"data": 2, "pipeline": {"size": 2, "schedule": "gpipe", "num_microbatches": 8}, "tensor": 2}},
    "preset": {"model": {"name": "transformer", "preset": "llama3-tiny", "num_layers": 3}},
    "moe": {"model": {"name": "moe", "preset": "mixtral-tiny"}, "split": {"expert": 2}},
    "dataset": {"model": "mlp", "dataset": {"name": "synthetic", "kind": "features", "num_features": 7}},
    "preset's dataset changed": {
        "model": {"name": "transformer", "preset": "gpt2-124m"},
        "dataset": {"name": "synthetic", "sequence_length": 32},
    },
    "lists and tables": {
        "split": {"layer": {"size": 2, "partition": [2, 4]}, "tensor": {"size": 2, "cut": {"layer0.attention": "heads"}}}
    },
    "rows": {"split": {"pipeline": {"schedule": "csv", "actions": ["0F0,0F1,0B0,0B1", "1F0,1B0,1F1,1B1"]}}},
    "text": {"name": 'it\'s "x" $HOME `id` = [1], # \\ ü\x7f', "train": {"learning_rate": 1e-05, "compile": True}},
    "a name like a number": {"name": "12"},
    "link": {
        "link": {"preset": "wan", "workers_per_node": 2, "axes": {"data": {"preset": "pcie4"}}, "within": {"latency_s": 1e-5}}
    },
    "inference": {"mode": "inference", "inference": {"num_new_tokens": 4}, "launch": {"threads_per_worker": 2}},
}
specs = pytest.mark.parametrize("table", SPECS.values(), ids=SPECS)


@specs
def test_a_spec_is_made_again_from_its_differences(table: dict[str, Any]) -> None:
    assert spec_of(differences(RunSpec(**table))) == RunSpec(**table)


@specs
def test_the_command_runs_the_same_spec(table: dict[str, Any]) -> None:
    words = shlex.split(command(RunSpec(**table)))
    assert words[:2] == ["workbench", "run"]
    given = run_command.make_context("run", words[2:]).params
    assert given["model"], "without an option it would be the demonstration"
    names = {"model": given["model"], "dataset": given["dataset"], "splits": given["splits"], "sets": given["sets"]}
    assert RunSpec(**override({}, **names)) == RunSpec(**table)


@specs
def test_the_script_runs_the_same_spec(table: dict[str, Any]) -> None:
    names: dict[str, Any] = {}
    exec(script(RunSpec(**table)).split("run = ")[0], names)
    assert names["spec"] == RunSpec(**table)


def test_nothing_differs_from_the_defaults_in_the_default_spec() -> None:
    assert differences(RunSpec()) == {}
    assert differences(RunSpec(split={"data": 2})) == {"split.data.size": 2}


@pytest.mark.parametrize("value", [1, 1.5, True, "a", "true", "1", "", "a,b", '"', "'", "[", {"a b": ["x", 1]}, [1, 2], "\n\t\\"])
def test_the_text_of_a_value_reads_back(value: Any) -> None:
    assert parse_value(value_text(value)) == value


@pytest.mark.parametrize("text", ["432878", "12e456", "true", "auto"])
def test_an_id_that_looks_like_a_number_is_a_text(text: str) -> None:
    table = override({}, model=None, dataset=None, splits=(), sets=[f"baseline.mode={text}", f"name={text}"])
    assert (RunSpec(**table).baseline.mode, RunSpec(**table).name) == (text, text)


def test_the_demonstration_is_four_strategies_on_two_workers() -> None:
    assert [spec.split.label for spec in four_strategies(RunSpec())] == ["dp2", "layer2", "pp2-1f1b-m4", "tp2"]
    other = four_strategies(RunSpec(model="mlp", split={"data": 4}, train={"num_steps": 5}))
    assert {(spec.model.name, spec.train.num_steps) for spec in other} == {("mlp", 5)}


def test_the_command_is_one_that_the_command_line_knows() -> None:
    with pytest.raises(click.NoSuchOption):
        run_command.make_context("run", ["--nonsense"])


def test_options_of_the_models_own_dataset_need_not_name_it() -> None:
    assert RunSpec(dataset={"sequence_length": 64}) == RunSpec(dataset={"name": "text", "sequence_length": 64})
