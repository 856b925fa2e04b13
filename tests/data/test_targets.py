"""What a dataset gives to predict: classes of series, numbers, a horizon; models take it or refuse it, and losses follow it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.helpers import cases
from workbench import registry
from workbench.data.base import DatasetSummary
from workbench.errors import PluginError, SpecError
from workbench.plan.resolve import plan
from workbench.spec import RunSpec
from workbench.testing.conformance import assert_dataset_conforms, assert_model_conforms, run_case
from workbench.testing.workers import run_in_workers

TRAIN = {"num_steps": 3, "num_warmup_steps": 0, "global_batch_size": 8}
TCN = '''
import torch
from pydantic import NonNegativeInt
from torch import nn
from typing import Literal
from workbench.data.base import Dataset, DatasetSummary, LabelledSamples, dataset
from workbench.models.base import model
from workbench.models.inferred import OwnModel
from workbench.spec.options import DatasetOptions, ModelOptions

class WavesOptions(DatasetOptions):
    name: Literal["waves"] = "waves"
    horizon: NonNegativeInt = 0
    """Steps to predict; 0: which of two frequencies the wave has."""

@dataset("waves")
class Waves(Dataset[WavesOptions]):
    """Noisy waves of two frequencies and two features."""
    Options = WavesOptions
    examples = {"class": {}, "horizon": {"horizon": 3}}

    def summary(self):
        h = self.options.horizon
        if h:
            return DatasetSummary("series", (12, 2), 0, 32, target="values", value_shape=(h, 2))
        return DatasetSummary("series", (12, 2), 2, 32, target="class")

    def load(self):
        import numpy as np
        rng = np.random.default_rng(0)
        labels = np.arange(32) % 2
        steps = np.arange(12 + self.options.horizon)
        waves = np.sin(steps * (0.3 + labels[:, None]) + rng.uniform(0, 6, (32, 1)))
        series = (waves[:, :, None] + rng.normal(0, 0.1, (*waves.shape, 2))).astype(np.float32)
        return LabelledSamples(series[:, :12], series[:, 12:] if self.options.horizon else labels.astype(np.int64))

class CausalConvolution(nn.Module):
    def __init__(self, channels, width, dilation):
        super().__init__()
        self.convolution, self.reach = nn.Conv1d(channels, width, 2, dilation=dilation), dilation

    def forward(self, x):  # (batch, steps, channels)
        return self.convolution(nn.functional.pad(x.transpose(1, 2), (self.reach, 0))).relu().transpose(1, 2)

class Head(nn.Module):
    def __init__(self, width, num_outputs):
        super().__init__()
        self.projection = nn.Linear(width, num_outputs)

    def forward(self, x):
        return self.projection(x.mean(dim=1))

@model("tcn")
class TCN(OwnModel[ModelOptions]):
    """Dilated causal convolutions (Bai et al. 2018) and a linear head."""
    default_dataset = "waves"

    def blocks(self):
        channels, outputs = self.data.input_shape[1], self.data.num_outputs
        return {"first": lambda: CausalConvolution(channels, 8, 1), "second": lambda: CausalConvolution(8, 8, 2),
                "head": lambda: Head(8, outputs)}
'''


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("plugins") / "tcn.py"
    path.write_text(TCN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_PLUGINS", os.environ.get("WORKBENCH_PLUGINS", ""))
        registry.announce(path)
        yield str(path)
    registry._load.cache_clear()


PIPELINE = {"pipeline": {"size": 2, "num_microbatches": 2}}


@pytest.mark.parametrize(
    ("split", "horizon"),
    [
        pytest.param({"data": 2}, 0, id="dp2-class"),
        pytest.param(PIPELINE, 3, id="pp2-horizon"),
        pytest.param({"data": 2}, 3, id="dp2-horizon", marks=pytest.mark.slow),
        pytest.param(PIPELINE, 0, id="pp2-class", marks=pytest.mark.slow),
    ],
)
def test_a_tcn_classifies_and_forecasts_series_in_every_split(plugin: str, horizon: int, split: dict[str, Any]) -> None:
    spec = {"model": "tcn", "dataset": {"name": "waves", "horizon": horizon}, "split": split, "train": TRAIN}
    reports = run_in_workers(2, cases.with_plugin, plugin, spec)
    assert reports[0][0]["ok"], reports[0][0]


@pytest.mark.parametrize("horizon", [0, 3], ids=["class", "horizon"])
def test_the_suite_checks_classes_and_values_of_series(plugin: str, horizon: int) -> None:
    options = {"name": "waves", "horizon": horizon}
    assert_dataset_conforms(options)
    assert_model_conforms({"model": {"name": "tcn"}, "dataset": options})


def test_an_mlp_predicts_numbers() -> None:
    data = {"name": "synthetic", "kind": "features", "num_features": 12, "num_values": 2, "num_samples": 64}
    assert_dataset_conforms(data)
    spec = {"model": {"name": "mlp", "hidden_dim": 16, "num_layers": 1}, "dataset": data, "train": TRAIN, "split": {"tensor": 2}}
    outcome = run_case(spec)
    assert outcome.parity_mistakes() + outcome.communication_mistakes() + outcome.loss_mistakes() == []
    x, y = torch.randn(5, 2), torch.randn(5, 2)
    assert plan(RunSpec(**spec)).model.loss(x, y) == ((x - y) ** 2).mean()


@pytest.mark.parametrize(
    ("model", "data", "sentence"),
    [
        ("lstm", {"name": "waves"}, "provides series with class targets, but lstm requires next-token or next-step targets"),
        ("mlp", {"name": "waves"}, "provides series, but mlp requires features; use digits or synthetic"),
        ("mlp", {"name": "synthetic", "kind": "series", "num_values": 1}, 'requires kind = "features", but kind = "series"'),
    ],
)
def test_what_a_model_cannot_predict_is_refused(plugin: str, model: str, data: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        plan(RunSpec(model=model, dataset=data))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"target": "value"}, 'target must be "next", "class", "values" or "structured", but got \'value\''),
        ({"target": "values"}, "requires a value_shape"),
        ({"target": "class"}, "requires num_classes of at least 2, but got 0"),
    ],
)
def test_a_summary_that_contradicts_itself_is_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PluginError, match=sentence):
        DatasetSummary("series", (4, 1), 0, 8, **values)
