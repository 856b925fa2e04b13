"""Dropout: off in inference and in the parity check."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from workbench import registry
from workbench.plan.feasibility import Plan, plan
from workbench.runtime.build import build_blocks, build_worker
from workbench.runtime.dropout import turn_off_dropout
from workbench.runtime.parity import check_parity
from workbench.runtime.recorder import Recorder
from workbench.spec import RunSpec
from workbench.testing.cases import CPU

OWN_MODEL = '''
from torch import nn
from workbench.models.base import model
from workbench.models.own import OwnModel

@model("with_dropout")
class WithDropout(OwnModel):
    """A perceptron with dropout and batch norm."""

    default_dataset = "digits"

    def blocks(self):
        return {
            "body": lambda: nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5)),
            "head": lambda: nn.Linear(32, 10),
        }
'''


@pytest.fixture
def own_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    path = tmp_path / "with_dropout.py"
    path.write_text(OWN_MODEL)
    monkeypatch.setenv("WORKBENCH_PLUGINS", str(path))
    registry._load.cache_clear()
    yield "with_dropout"
    registry._load.cache_clear()


def planned(model: str, **parts: object) -> Plan:
    return plan(RunSpec(model=model, train={"global_batch_size": 8}, launch={"device": "cpu"}, **parts))


@pytest.mark.parametrize("mode", ["train", "inference"])
def test_random_masks_do_not_fail_parity(own_model: str, mode: str) -> None:
    report = check_parity(planned(own_model, mode=mode), 0, None, Recorder(), CPU, None, 2)
    assert report is not None
    assert report.max_error == 0


def test_a_worker_is_in_eval_mode_in_inference_alone(own_model: str) -> None:
    for mode in ("train", "inference"):
        worker = build_worker(planned(own_model, mode=mode), 0, None, Recorder(), CPU, torch.float32)
        assert {module.training for module in worker.blocks.modules()} == {mode == "train"}


def test_inference_with_batch_norm_does_not_depend_on_the_batch(own_model: str) -> None:
    blocks = build_blocks(planned(own_model, mode="inference"), ["body", "head"], torch.float64)
    samples = torch.randn(8, 64, dtype=torch.float64)
    torch.testing.assert_close(blocks(samples)[:3], blocks(samples[:3]))


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.AlphaDropout(0.5), nn.LSTM(4, 4, 2, dropout=0.5),
                                   nn.TransformerEncoderLayer(4, 2, 8, dropout=0.5)], ids=lambda l: type(l).__name__)  # fmt: skip
def test_every_kind_of_dropout_is_turned_off(layer: nn.Module) -> None:
    model, x = nn.Sequential(layer), torch.randn(3, 5, 4)

    def outputs() -> torch.Tensor:
        found = model(x)
        return found[0] if isinstance(found, tuple) else found

    assert not torch.equal(outputs(), outputs())
    assert turn_off_dropout(model)
    assert torch.equal(outputs(), outputs())
    assert model.training
