"""The planner's arithmetic, specs as files, the order of samples, and the device queue."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workbench.data.base import sample_order
from workbench.errors import SpecError
from workbench.launch.device_queue import Holder, Ticket
from workbench.plan.mesh import Mesh
from workbench.plan.partition import balanced
from workbench.plan.resolve import plan
from workbench.registry import STRATEGIES
from workbench.spec import RunSpec, Split
from workbench.spec.files import dumps, load, override
from workbench.spec.work import work_differences


@pytest.mark.parametrize("num_stages", [1, 2, 3, 4])
def test_no_partition_is_better_balanced(num_stages: int) -> None:
    weights = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0]

    def largest(cuts: tuple[int, ...]) -> float:
        return max(sum(weights[a:b]) for a, b in itertools.pairwise((0, *cuts, len(weights))))

    best = min(map(largest, itertools.combinations(range(1, len(weights)), num_stages - 1)))
    sizes = balanced(weights, num_stages)
    assert sum(sizes) == len(weights)
    assert largest(tuple(itertools.accumulate(sizes[:-1]))) == best


def test_ranks_count_along_the_innermost_axis_first() -> None:
    mesh = Mesh({"pipeline": 2, "data": 3})
    assert list(mesh.coordinate(4).items()) == [("pipeline", 1), ("data", 1)]


def test_a_spec_reads_back_from_its_file(tmp_path: Path) -> None:
    spec = RunSpec(model="mlp", split={"pipeline": {"size": 2, "schedule": "gpipe"}}, train={"learning_rate": 0.01})
    path = tmp_path / "spec.toml"
    path.write_text(dumps(spec))
    assert load(path) == spec


def test_labels_carry_what_differs() -> None:
    assert Split().label == "single"
    assert Split(pipeline={"size": 2, "num_microbatches": 8}).label == "pp2-1f1b-m8"


def test_a_model_table_without_a_name_is_the_default_models() -> None:
    table = override({}, model=None, dataset=None, splits=[], sets=["model.num_layers=8"])
    assert RunSpec(**table).as_dict()["model"] == {**RunSpec().as_dict()["model"], "num_layers": 8}
    with pytest.raises(SpecError, match="train must be a table"):
        override({"train": 5}, model=None, dataset=None, splits=[], sets=["train.num_steps=7"])


def test_a_baseline_of_edited_code_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.launch import environment

    before = environment.baseline_key(RunSpec())
    assert before == environment.baseline_key(RunSpec())
    copy = tmp_path / "transformer.py"
    copy.write_text("# edited")
    monkeypatch.setattr(sys.modules["workbench.models.transformer"], "__file__", str(copy))
    assert environment.baseline_key(RunSpec()) != before


def test_a_baseline_does_not_depend_on_how_splits_divide_the_model() -> None:
    from workbench.launch.environment import baseline_key

    def spec(**options: Any) -> RunSpec:
        return RunSpec(model={"name": "net.py:Net", **options}, dataset="digits")

    same = [spec(), spec(cut_at=["layers.1"]), spec(tensor_plan={"layers.*.up": "none"})]
    assert len({baseline_key(each) for each in same}) == 1
    assert work_differences([each.as_dict() for each in same]) == []
    assert baseline_key(spec(options={"width": 8})) != baseline_key(same[0])


def test_selective_checkpointing_of_recurrent_layers_is_refused() -> None:
    with pytest.raises(SpecError, match=r"lstm has recurrent layers.*; use full"):
        plan(RunSpec(model="lstm", train={"checkpointing": "selective"}))
    plan(RunSpec(model="lstm", train={"checkpointing": "full"}))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": "cnn", "split": {"tensor": 2}, "train": {"checkpointing": "full"}}, "sliced convolution layers"),
    ],
)
def test_what_would_be_silently_wrong_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        plan(RunSpec(**changes))


def test_the_command_line_lays_its_values_over_the_file() -> None:
    table = override(
        {"train": {"num_steps": 5, "seed": 3}},
        model="mlp",
        dataset=None,
        splits=["data=2"],
        sets=["train.num_steps=7"],
    )
    spec = RunSpec(**table)
    assert (spec.model.name, spec.dataset.name, spec.train.num_steps, spec.train.seed) == (
        "mlp",
        "digits",
        7,
        3,
    )
    with pytest.raises(SpecError, match="expects path=value"):
        override({}, model=None, dataset=None, splits=[], sets=["train.num_steps"])


def test_each_epoch_sees_every_sample_once() -> None:
    seen = np.concatenate([sample_order(1, 12, step, 4) for step in range(6)])
    assert sorted(seen[:12]) == sorted(seen[12:]) == list(range(12))
    assert list(seen[:12]) != list(seen[12:])


def test_the_queue_is_first_come_first_served_and_skips_the_dead(tmp_path: Path) -> None:
    first, second, elsewhere = (
        Ticket(["cpu"], Holder("run 1", "/store"), tmp_path),
        Ticket(["cpu"], Holder("calibration"), tmp_path),
        Ticket(["cuda:0"], Holder("run 2"), tmp_path),
    )
    assert first.is_first()
    assert not second.is_first()
    (held,) = second.ahead()
    assert held.description(Path("/another")) == f"run 1 of user {held.user} (store /store)"
    assert held.description(Path("/store")) == f"run 1 of user {held.user}"
    assert elsewhere.is_first()
    import os

    os.close(first.file)  # what the system does when an owner dies
    assert second.is_first()
    assert not first.path.exists()


def test_an_axis_that_no_built_in_strategy_has_stands_inside_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(STRATEGIES.get("data"), "axis", "copies")
    planned = plan(RunSpec(model="mlp", split={"data": 2, "tensor": 4}))
    assert planned.mesh.axes == {"tensor": 4, "copies": 2}
    assert planned.mesh.groups("copies") == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert planned.local_model(7).num_parameters < planned.full_model.num_parameters
