"""A user's own optimizer: its steps equal those on one worker, its state is counted, and mistakes are answered in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import workbench as wb
from workbench.code_parts import OPTIMIZER
from workbench.errors import SpecError, SplitError
from workbench.plan.optimizer import optimizer_text
from workbench.plan.resolve import plan
from workbench.runtime.optimizer import set_learning_rate
from workbench.runtime.user_optimizer import user_optimizer
from workbench.spec import RunSpec
from workbench.spec.files import load
from workbench.testing.conformance import assert_conforms, run_case

CODE = """
import torch

def two_groups(named_parameters, lr, decay=0.1):
    matrices = [p for _, p in named_parameters if p.ndim >= 2]
    others = [p for _, p in named_parameters if p.ndim < 2]
    return torch.optim.AdamW([{"params": matrices, "weight_decay": decay}, {"params": others, "lr": 2 * lr}], lr=lr)

class Signs(torch.optim.Optimizer):
    def __init__(self, named_parameters, lr=1e-3):
        super().__init__(named_parameters, {"lr": lr})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                average = self.state[p].setdefault("average", torch.zeros_like(p))
                average.lerp_(p.grad, 0.1)
                self.update(p, average, group.get("lr"))

    def update(self, p, average, lr):
        p.sub_(average.sign(), alpha=lr)

class OfItsNorm(Signs):
    def update(self, p, average, lr):
        local = average.to_local() if hasattr(average, "to_local") else average
        p.sub_(average / local.norm(), alpha=lr)

class WithoutRate(Signs):
    def __init__(self, named_parameters, scale: float = 1.0):
        assert isinstance(named_parameters[0], tuple), "takes pairs only"
        super().__init__(named_parameters)
        for group in self.param_groups:
            del group["lr"]

    def update(self, p, average, lr):
        p.sub_(average)

def of_lists(named_parameters):
    return torch.optim.LBFGS([p for _, p in named_parameters])

def number(named_parameters):
    return 3

def foreign(named_parameters):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))])

def raises(named_parameters):
    raise RuntimeError("no")
"""
BRIEF = {"num_steps": 3, "num_warmup_steps": 1, "global_batch_size": 8}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "store"))
    (tmp_path / "optimizers.py").write_text(CODE)
    return tmp_path / "optimizers.py"


def spec_of(file: Path, name: str, split: dict[str, Any] | None = None, **train: Any) -> dict[str, Any]:
    return {
        "model": {"name": "mlp", "num_layers": 2, "hidden_dim": 16, "feedforward_dim": 32},
        "split": split or {},
        "train": {**BRIEF, "optimizer": name if ":" in name and "." in name else f"{file}:{name}", **train},
    }


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("two_groups", {"data": {"size": 2, "shard": "optimizer"}}),
        ("two_groups", {"tensor": 2}),
        ("Signs", {"pipeline": 2}),
        pytest.param("Signs", {"data": {"size": 2, "shard": "parameters"}}, marks=pytest.mark.cross),
        pytest.param("torch.optim:RMSprop", {"data": 2}, marks=pytest.mark.cross),
        pytest.param("two_groups", {"pipeline": 2, "data": 2}, marks=pytest.mark.cross),
        pytest.param("Signs", {"data": {"size": 2, "shard": "optimizer"}}, marks=pytest.mark.cross),
        pytest.param("torch.optim:RMSprop", {"tensor": 2}, marks=pytest.mark.cross),
    ],
    ids=str,
)
def test_a_split_takes_the_steps_of_one_worker_with_the_expected_state(file: Path, name: str, split: dict[str, Any]) -> None:
    assert_conforms(spec_of(file, name, split, lr_schedule="linear", num_lr_warmup_steps=1))


def test_parity_fails_where_the_update_depends_on_more_than_the_element(file: Path) -> None:
    parity = run_case(spec_of(file, "OfItsNorm", {"tensor": 2})).parity
    assert not parity["ok"]
    assert parity["tensor"].endswith(f"after steps of {file}:OfItsNorm")


def test_groups_options_and_learning_rate_reach_the_callable(file: Path) -> None:
    train = RunSpec(**spec_of(file, "two_groups", learning_rate=0.5, optimizer_options={"decay": 0.3})).train
    named = [("a", torch.nn.Parameter(torch.ones(2, 2))), ("b", torch.nn.Parameter(torch.ones(2)))]
    optimizer = user_optimizer(train, named)
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.5, 0.3), (1.0, 0.01)]
    set_learning_rate(optimizer, train.model_copy(update={"num_lr_warmup_steps": 4}), 0)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.25]
    assert optimizer_text(train) == f"{file}:two_groups, learning rate 0.5, decay 0.3"


@pytest.mark.parametrize(
    ("name", "train", "sentence"),
    [
        ("number", {}, r"train.optimizer: optimizers.py:number must return a torch.optim.Optimizer, but returned a int"),
        ("foreign", {}, "has parameters of its own; use those that it is given"),
        ("raises", {}, r"building optimizers.py:raises failed in optimizers.py, line \d+: RuntimeError: no"),
        ("of_lists", {}, "a step of the optimizer that optimizers.py:of_lists returns failed: TypeError: LBFGS.step"),
        ("two_group", {}, "optimizers.py has no 'two_group'; did you mean 'two_groups'"),
        ("two_groups", {"optimizer_options": {"rate": 1}}, "train.optimizer_options.rate: .*has no argument 'rate'"),
        ("two_groups", {"weight_decay": 0.1}, "train.weight_decay: got 0.1, but .* has options of its own"),
        ("two_groups", {"momentum": 0.1}, "train.momentum: got 0.1, but optimizer = .* has no momentum"),
        ("WithoutRate", {"lr_schedule": "cosine"}, "train.lr_schedule: scales the lr of each parameter group"),
    ],
)
def test_what_is_no_optimizer_is_refused_in_a_sentence(file: Path, name: str, train: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        plan(RunSpec(**spec_of(file, name, **train)))


def test_options_and_shards_that_do_not_apply_are_refused(file: Path) -> None:
    with pytest.raises(SpecError, match=r"must be .*or a callable of your own"):
        RunSpec(train={"optimizer": "adamm"})
    with pytest.raises(SpecError, match=r"train.optimizer_options: got alpha, but optimizer = 'adamw' is no callable"):
        plan(RunSpec(train={"optimizer_options": {"alpha": 0.9}}))
    with pytest.raises(SplitError, match=r"split.data.shard: .* which the class that optimizers.py:WithoutRate returns"):
        plan(RunSpec(**spec_of(file, "WithoutRate", {"data": {"size": 2, "shard": "optimizer"}})))


def test_a_run_keeps_the_code_of_a_live_optimizer(file: Path) -> None:
    optimizer = wb.UserOptimizer(lambda named_parameters, lr: torch.optim.SGD(named_parameters, lr=lr), lr=0.3)
    spec = spec_of(file, "")
    train = {**spec["train"], "optimizer": optimizer}
    run = wb.run(RunSpec(**{**spec, "train": train, "split": {"data": 2}, "baseline": {"mode": "none"}}))
    assert run.row()["parity_verdict"] == "equal"
    again = load(run.directory.spec_path)
    assert (again.train.optimizer, again.train.optimizer_options) == ("live:lambda", {"lr": 0.3})
    code = run.directory.code(OPTIMIZER)
    assert code is not None
    assert [*code.files] == ["live-optimizer.pickle"]
    assert wb.UserOptimizer(torch.optim.RMSprop, alpha=0.9).optimizer == "torch.optim.rmsprop:RMSprop"
