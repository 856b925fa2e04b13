"""Models that a notebook's cell defines: each is a file, so that the workers of a run can build it."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import workbench as wb
from workbench.errors import SpecError, UsageError
from workbench.notebook.model_cell import write_model
from workbench.plan.resolve import plan
from workbench.registry import MODELS

QUICK = {"num_steps": 3, "num_warmup_steps": 1}
OWN = '''
from torch import nn
from workbench.models.base import model
from workbench.models.inferred import OwnModel

@model("{name}")
class Own(OwnModel):
    """Three linear layers."""

    default_dataset = "digits"

    def blocks(self):
        return {{"first": lambda: nn.Linear(64, {hidden}), "second": nn.Tanh, "head": lambda: nn.Linear({hidden}, 10)}}
'''


@pytest.fixture(scope="module", autouse=True)
def _store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_HOME", str(tmp_path_factory.mktemp("store")))
        yield


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Models that a test defines are forgotten after it."""
    monkeypatch.setenv("WORKBENCH_PLUGINS", "")
    yield
    from workbench import registry

    os.environ["WORKBENCH_PLUGINS"] = ""
    registry._load.cache_clear()
    gc.collect()


def test_a_model_of_a_cell_is_built_by_the_workers_of_a_run(plugins: None, tmp_path: Path) -> None:
    path = write_model("three_layers", OWN.format(name="three_layers", hidden=32), tmp_path)
    assert path == tmp_path / "three_layers.py"
    summary = plan(wb.RunSpec(model="three_layers")).full_model
    assert [(b.name, b.num_parameters, b.output_shape) for b in summary.blocks] == [
        ("first", 64 * 32 + 32, (32,)), ("second", 0, (32,)), ("head", 32 * 10 + 10, (10,)),
    ]  # fmt: skip
    assert summary.blocks[0].forward_flops == 2 * 64 * 32
    run = wb.run(wb.RunSpec(model="three_layers", train=QUICK, split={"layer": 2}, baseline={"mode": "none"}))
    assert run.summary is not None
    assert run.summary["parity_ok"]


def test_a_cell_executed_again_replaces_its_model(plugins: None, tmp_path: Path) -> None:
    for hidden in (32, 48):
        write_model("again", OWN.format(name="again", hidden=hidden), tmp_path)
        assert plan(wb.RunSpec(model="again")).full_model.num_parameters == 65 * hidden + (hidden + 1) * 10


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("Two Words", OWN.format(name="x", hidden=8), "lowercase letters"),
        ("mlp", OWN.format(name="mlp", hidden=8), "model 'mlp' already exists"),
        ("named_otherwise", OWN.format(name="other", hidden=8), "defines no model named 'named_otherwise'"),
    ],
)
def test_a_cell_that_defines_no_such_model_is_refused(plugins: None, tmp_path: Path, name: str, code: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        write_model(name, code, tmp_path)
    assert MODELS.get("mlp").__module__ == "workbench.models.mlp"


def test_a_cell_whose_code_raises_registers_nothing(plugins: None, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        write_model("broken", "1 / 0", tmp_path)
    with pytest.raises(SpecError, match="unknown model"):
        wb.RunSpec(model="broken")
