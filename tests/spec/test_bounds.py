"""Values that no machine can hold are refused in a sentence, before anything is enumerated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from workbench.errors import SpecError
from workbench.plan.resolve import plan
from workbench.spec import RunSpec
from workbench.spec.files import override, read_table

LARGE = 2**53


def given(*sets: str) -> RunSpec:
    return RunSpec(**override({}, model=None, dataset=None, splits=(), sets=sets))


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("model.num_layers=100000000", "model.num_layers: must be at most 10000, but got 100000000"),
        ("split.layer.size=2147483647", "split.layer.size: must be at most 65536, but got 2147483647"),
        ("split.expert.size=2147483647", "split.expert.size: must be at most 65536, but got 2147483647"),
        (f"model.hidden_dim={LARGE + 1}", f"model.hidden_dim: must be at most {LARGE}, but got {LARGE + 1}"),
        (f"train.seed=-{LARGE + 1}", f"train.seed: must be at least -{LARGE}, but got -{LARGE + 1}"),
        (f"split.layer.partition=[1, {LARGE + 1}]", f"split.layer.partition: must be at most {LARGE}, but got [1, {LARGE + 1}]"),
        (f"train.num_steps={'9' * 5000}", f"train.num_steps: must be an integer of 64 bits, but got '{'9' * 198}…"),
        ("train.num_steps=true", "train.num_steps: must be an integer, but got True"),
        ("train.learning_rate=false", "train.learning_rate: must be a number, but got False"),
        (f"train.num_steps={'[' * 3000}", "train.num_steps: must be an integer, but got '[[["),
    ],
)
def test_a_value_beyond_its_bounds_is_refused(value: str, sentence: str) -> None:
    with pytest.raises(SpecError) as refused:
        given(value)
    assert str(refused.value).startswith(sentence)


@pytest.mark.parametrize(
    ("path", "value"), [("launch.fork_server", False), ("measure.parity", True), ("split.data.sync_batch_norm", False)]
)
def test_truth_values_stay_where_they_belong(path: str, value: bool) -> None:
    spec: Any = given("split.data.size=2", f"{path}={str(value).lower()}")
    for part in path.split("."):
        spec = dict(spec.items())[part] if path.startswith("split") and part == "data" else getattr(spec, part)
    assert spec is value


@pytest.mark.parametrize("text", ["x = " + "9" * 5000, "x = " + "[" * 5000, "x = \x00", "\udcff"])
def test_a_file_beyond_the_bounds_of_the_parser_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "spec.toml"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(SpecError, match=r"spec\.toml: not a valid TOML file"):
        read_table(file)


def test_the_largest_plan_is_small() -> None:
    planned = plan(given("model.num_layers=10000"))
    assert len(planned.full_model.blocks) > 10000
    assert plan(given("split.data.size=65536", "train.global_batch_size=65536", "dataset.name=synthetic",
                      "dataset.kind=tokens", "dataset.num_samples=65536")).num_workers == 65536  # fmt: skip
