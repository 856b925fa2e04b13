"""One call from a model and a batch to the table of its splits."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn
from torch.nn.functional import mse_loss

import workbench as wb
from workbench.api.batches import dataset_of_batch
from workbench.cli.main import cli
from workbench.errors import SpecError, UsageError
from workbench.registry import DATASETS
from workbench.torch_private.dispatch import tree_map

TOKENS = {"ids": torch.ones(4, 5, dtype=torch.int32), "mask": torch.ones(4, 5, dtype=torch.bool)}
QUICK = {"num_steps": 3, "num_warmup_steps": 0}


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_HOME", str(folder))
        yield folder


def net(inputs: int = 6, outputs: int = 3) -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, outputs))

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x).squeeze(-1)

    return Net()


def test_a_module_and_a_batch_become_a_table_of_splits(capsys: pytest.CaptureFixture[str]) -> None:
    module, batch = net(), (torch.randn(12, 6), torch.randint(3, (12,)))
    before = [p.clone() for p in module.parameters()]
    comparison = wb.compare_splits(
        module, batch, splits=[{"data": 2}, {"layer": 2}, {"context": 2}, {"data": 5}], train={**QUICK, "precision": "fp64"}
    )
    assert list(comparison["split"])[-2:] == ["dp2", "layer2"]
    assert set(comparison["split"].iloc[:-2]) == {"single"}
    assert set(comparison["parity_verdict"]) == {"equal"}
    assert comparison["final_loss"].max() - comparison["final_loss"].min() < 1e-9
    assert set(comparison["group"].iloc[-2:]) == {"splits of live:Net over 2 workers"}
    assert set(comparison.refused) == {"cp2-ring", "dp5"}
    assert "12" in comparison.refused["dp5"]
    assert "dp5: " in repr(comparison)
    assert "<li><b>dp5</b>: " in comparison._repr_html_()
    assert all(p.equal(old) for p, old in zip(module.parameters(), before, strict=True))
    spec = wb.open_run(comparison["run_id"].iloc[-1]).spec
    assert spec.train.global_batch_size == 12
    assert "".join(capsys.readouterr()) == "", "neither a cell nor a terminal"


def test_a_loss_gets_targets_in_the_shape_of_the_batch() -> None:
    def strict(outputs: Tensor, targets: Tensor) -> Tensor:
        assert outputs.shape == targets.shape, f"{outputs.shape} {targets.shape}"
        return mse_loss(outputs, targets)

    batch = (torch.randn(8, 6), torch.randn(8))
    comparison = wb.compare_splits(net(outputs=1), batch, loss=strict, splits=[{"data": 2}], train=QUICK)
    assert list(comparison["state"]) == ["finished"] * len(comparison)
    assert set(comparison["parity_verdict"]) == {"equal"}
    run = wb.open_run(comparison["run_id"].iloc[-1])
    assert run.spec.as_dict()["model"]["loss"] == "live:strict"


def test_what_every_split_would_refuse_is_raised_before_a_run(store: Path) -> None:
    num_runs = len(wb.runs())
    batch = (torch.randn(8, 5), torch.randint(3, (8,)))
    with pytest.raises(
        SpecError, match=r"the forward pass of live:Net over two samples of features failed in .*line \d+: Runtime"
    ):
        wb.compare_splits(net(), batch)
    with pytest.raises(UsageError, match=r"has no argument 'num_step'; parts of a spec: name, mode, train"):
        wb.compare_splits(net(), batch, num_step=3)
    with pytest.raises(SpecError, match=r"model\.loss: belongs to a model that is given as an object"):
        wb.compare_splits("mlp", "digits", loss=mse_loss)
    assert len(wb.runs()) == num_runs


@pytest.mark.parametrize(
    ("batch", "sentence"),
    [
        (torch.ones(3), "batch must be a pair .inputs, targets., .* or the name of a dataset, but got a Tensor"),
        ((torch.ones(3), torch.ones(3), torch.ones(3)), "several inputs as a tuple ..a, b., targets. .* but got a tuple of 3"),
        (
            (torch.ones(3, 2), [1, 2, 3]),
            "batch: targets.0 must be a tensor with the samples as dim 0, or a tuple, list or dict of such, but got a int",
        ),
        ((torch.ones(3, 2), torch.ones(4)), "batch: inputs has 3 samples and targets has 4 samples, not equally many"),
        (((torch.ones(3), 1.0), torch.ones(3)), "batch: inputs.1 must be a tensor"),
        (
            ({"a.b": torch.ones(3)}, torch.ones(3)),
            "names in inputs must be identifiers, such as those of arguments, but got 'a.b'",
        ),
        (({}, torch.ones(3)), "batch: inputs must be a tensor .* but got a dict of 0"),
    ],
)
def test_a_batch_of_another_form_is_refused(batch: object, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        dataset_of_batch(batch)


@pytest.mark.parametrize(
    ("inputs", "targets", "kind", "target"),
    [
        (torch.ones(4, 6), torch.tensor([0, 1, 2, 0]), "features", "class"),
        (torch.ones(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]), "images", "class"),
        (torch.ones(4, 6, dtype=torch.bfloat16), torch.ones(4, 2, dtype=torch.float64), "features", "values"),
        (torch.arange(20).reshape(4, 5), torch.arange(20).reshape(4, 5), "tokens", "next"),
        (torch.ones(4, 6), torch.ones(4), "features", "values"),
        (TOKENS, torch.zeros(4, 5, dtype=torch.int64), "structured", "structured"),
        ((torch.ones(4, 6), torch.ones(4, 2)), torch.tensor([0, 1, 2, 0]), "structured", "class"),
        (np.ones((4, 6)), np.zeros(4, int), "features", "class"),
    ],
)  # fmt: skip
def test_the_kind_of_a_batch_is_found(inputs: object, targets: object, kind: str, target: str) -> None:
    table, count = dataset_of_batch((inputs, targets))
    dataset = DATASETS.get(table["name"])
    summary = dataset(dataset.Options(**table)).summary()
    assert (count, summary.num_samples, summary.kind, summary.target) == (4, 4, kind, target)
    assert dataset_of_batch((inputs, targets)) == (table, count), "an equal batch is the same file"


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 8), nn.Linear(2, 8), nn.Linear(8, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(self.first(a).tanh() - self.second(b))


def test_a_tuple_of_inputs_is_given_by_position() -> None:
    batch = (torch.randn(8, 6), torch.randn(8, 2)), torch.randint(3, (8,))
    comparison = wb.compare_splits(Pair(), batch, splits=[{"layer": 2}], train=QUICK, baseline={"mode": "none"})
    assert list(comparison["parity_verdict"]) == ["equal"], comparison.refused


@pytest.mark.parametrize("inputs", [(TOKENS["ids"], {"a": TOKENS["mask"]}), {"ids": (TOKENS["ids"],)}, {"only": TOKENS["ids"]}])
def test_a_batch_is_read_with_the_structure_that_it_had(inputs: object) -> None:
    table, _ = dataset_of_batch((inputs, torch.zeros(4, dtype=torch.int64)))
    dataset = DATASETS.get(table["name"])
    read, _ = dataset(dataset.Options(**table)).load().batch(np.arange(4))
    torch.testing.assert_close(read, tree_map(lambda t: t.long().numpy() if t.dtype != torch.bool else t.numpy(), inputs))


def test_batches_that_no_run_refers_to_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    used, unused, young = (dataset_of_batch((np.full((2, 3), value), np.zeros(2, int)))[0]["name"] for value in (1.0, 2.0, 3.0))
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "spec.toml").write_text(f'[dataset]\nname = "{used}"\n')
    for name in (used, unused):
        os.utime(name, (0, 0))
    result = CliRunner().invoke(cli, ["gc"])
    assert (result.exit_code, result.output) == (0, "removed 1 batch, 0.0 MiB\n")
    assert [Path(name).exists() for name in (used, unused, young)] == [True, False, True]
    assert not Path(unused).parent.exists()


def test_a_terminal_shows_the_table_while_it_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("COLUMNS", "140")
    wb.compare_splits("mlp", "digits", splits=[{"data": 2}], train=QUICK, baseline={"mode": "none"})
    assert "0 of 1 run ended · dp2: " in shown.getvalue()
    assert "1 of 1 run ended" in shown.getvalue()
    assert shown.getvalue().rstrip().count("step ms") > 1
