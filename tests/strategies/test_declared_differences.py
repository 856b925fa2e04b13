"""Strategies that declare what they change: what they declare is checked, and everything else is one worker's."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import cases
from workbench import registry
from workbench.metrics.communication import communication_bytes_per_step, measured_communication
from workbench.plan.lossy import Lossy
from workbench.plan.resolve import plan
from workbench.plan.steps import trace_share
from workbench.runtime.parity.errors import WorstError
from workbench.spec import RunSpec
from workbench.testing.workers import run_in_workers

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
LOCAL = {"model": {"name": "mlp", "hidden_dim": 16, "num_layers": 1}, "split": {"local_sgd": {"size": 2, "every": 2}}}
TRAIN = {"num_steps": 3, "num_warmup_steps": 0, "global_batch_size": 8}
OPPOSED = '''
from workbench.data.base import Dataset, DatasetSummary, LabelledSamples, dataset
from workbench.spec.options import DatasetOptions

@dataset("opposed")
class Opposed(Dataset[DatasetOptions]):
    """One input with both labels: on two workers the gradients nearly cancel."""
    Options = DatasetOptions
    def summary(self):
        return DatasetSummary("features", (8,), 2, 2)
    def load(self):
        import numpy as np
        return LabelledSamples(np.ones((2, 8), np.float32), np.array([0, 1]))
'''


def example(name: str) -> str:
    (code,) = re.findall(rf"^```python {name}.py\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return str(code)


def local_sgd() -> str:
    return example("local_sgd")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plugins")


@pytest.fixture
def known(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Writes a plugin's code to one file, which workers started for earlier tests know too, and makes it known here."""
    monkeypatch.setenv("WORKBENCH_PLUGINS", os.environ.get("WORKBENCH_PLUGINS", ""))

    def write(code: str) -> str:
        (folder / "plugin.py").write_text(code)
        registry.announce(folder / "plugin.py")
        return str(folder / "plugin.py")

    yield write
    registry._load.cache_clear()


def of_plugin(path: str, spec: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The parity report and each worker's figures."""
    reports, workers = zip(*run_in_workers(2, cases.with_plugin, path, spec), strict=True)
    return reports[0], list(workers)


def test_local_sgd_is_each_replicas_own_steps_and_their_mean(known: Any) -> None:
    path, spec = known(local_sgd()), {**LOCAL, "train": TRAIN, "measure": {"num_trace_steps": 3}}
    report, workers = of_plugin(path, spec)
    assert (report["ok"], report["max_error"] < 1e-9, report["allowed"]) == (None, True, 1e-9)
    assert report["on_purpose"] == "trains replicas with parameters of their own and averages these every 2 steps"
    # Trace steps are the 4th to the 6th of the run, two of which average; a step does so every second time.
    planned = plan(RunSpec(**spec))
    num_bytes = 4 * planned.full_model.num_parameters
    assert sum(t["payload_bytes"] for t in measured_communication(workers)) == pytest.approx(num_bytes * 2 / 3)
    (expected,) = {(t["trace_share"], t["every"]) for t in planned.expected_record()["communication"]}
    assert expected == (pytest.approx(2 / 3), 2)
    assert sum(t.bytes_per_step for t in planned.expected_communication) == num_bytes / 2
    assert communication_bytes_per_step(planned.expected_record()["communication"], workers) == num_bytes / 2


@pytest.mark.parametrize(
    ("mistaken", "wrong"),
    [
        (("next(steps) % self.options.every == 0", "next(steps) % self.options.every == 1"), r"parameter .* on replica \d"),
        (("values /= workers.size()", "pass"), r"parameter .* on replica \d"),
        (("worker.make_optimizer = averaging", "pass"), r"parameter .* on replica \d"),
        (("limit=0.0", "limit=None", "worker.make_optimizer = averaging", "pass"), "parameter .* on replica 1"),
        (("workers.get_local_rank(), workers.size())", "0, workers.size())"), "outputs"),
    ],
    ids=["another step", "a sum", "never", "never, no formula", "another replica's samples"],
)
def test_what_local_sgd_does_not_declare_is_wrong(known: Any, mistaken: tuple[str, ...], wrong: str) -> None:
    code = local_sgd()
    for old, new in zip(mistaken[::2], mistaken[1::2], strict=True):
        assert code.count(old) == 1
        code = code.replace(old, new)
    report, _ = of_plugin(known(code), {**LOCAL, "train": TRAIN})
    assert report["ok"] is False
    assert re.fullmatch(wrong, report["tensor"]), report
    assert report["allowed"] == 1e-9


@pytest.mark.parametrize("compression", ["fp16", "bf16"])
def test_compressed_gradients_that_oppose_one_another_are_measured_by_themselves(known: Any, compression: str) -> None:
    spec = {
        "model": {"name": "mlp", "hidden_dim": 16, "num_layers": 1},
        "dataset": "opposed",
        "split": {"data": {"size": 2, "compression": compression}},
        "train": {**TRAIN, "global_batch_size": 2},
    }
    report, _ = of_plugin(known(OPPOSED), spec)
    assert report["ok"] is None, report
    assert 0 < report["max_error"] < report["allowed"]


def test_the_error_that_is_named_is_the_violation_and_not_the_largest() -> None:
    worst = WorstError()
    worst.add({"gradient of a": 0.5, "loss": 1e-6, "outputs": 1e-3}, lambda name: 1.0 if name == "gradient of a" else 1e-9)
    worst.add({"loss": 1e6}, lambda name: 1e-9)
    assert (worst.tensor, worst.error, worst.allowed, worst.is_wrong) == ("outputs", 1e-3, 1e-9, True), "of the first wrong step"
    rightful = WorstError()
    rightful.add({"gradient of a": 0.5, "loss": 1e-12}, lambda name: 1.0 if name == "gradient of a" else 1e-9)
    assert (rightful.tensor, rightful.is_wrong) == ("gradient of a", False)


def test_what_each_kth_step_has_is_counted_on_the_trace_steps_that_have_it() -> None:
    spec = RunSpec(model="mlp", train={"num_steps": 5, "num_warmup_steps": 2}, measure={"num_trace_steps": 4})  # the 8th to 11th
    assert [float(trace_share(spec, every)) for every in (1, 2, 3, 5, 8, 12)] == [1, 0.5, 0.25, 0.25, 0.25, 0]
    seldom = {"operation": "all_reduce", "axis": "data", "phase": "optimizer", "every": 12, "trace_share": 0.0}
    assert communication_bytes_per_step([seldom], [{"communication": []}]) is None, "not measured, and not nothing"


def test_a_declaration_says_how_many_steps_the_check_needs_and_what_it_changes() -> None:
    assert [Lossy(None, 2).num_parity_steps, Lossy(0.0, changes="parameters", every=4).num_parity_steps] == [3, 5]
    assert [step for step in range(6) if Lossy(0.0, changes="parameters", every=3).averages(step)] == [2, 5]


def test_replicas_draw_the_masks_of_their_own_samples(known: Any) -> None:
    path, model = known(local_sgd()), {"name": "mlp", "num_layers": 2, "dropout": 0.2}
    report, _ = of_plugin(path, {**LOCAL, "model": model, "train": TRAIN})
    assert (report["ok"], report["max_error"] < 1e-9) == (None, True)


def test_an_axis_of_its_own_does_not_divide_the_batch_beside_stages(known: Any) -> None:
    path = known(example("averaging").replace('axis = "data"', 'axis = "apart"'))
    spec = {"model": "mlp", "split": {"averaging": 2, "pipeline": 2}, "train": TRAIN, "launch": {"device": "cpu"}}
    with pytest.raises(AssertionError, match="with stages, only the data axis can divide the batch"):
        run_in_workers(4, cases.with_plugin, path, spec)
