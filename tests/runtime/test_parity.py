"""The verdict of a parity check, by what the split, the same shards and the whole batch give."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.models.user import zoo
from tests.models.user.zoo import Shared, SingleNorm
from workbench.models.user.dataflow_modules import reads_values
from workbench.plan import compatibility
from workbench.plan.lossy import Lossy
from workbench.plan.parity import Verdict
from workbench.runtime.parity.amplification import Movements, explains
from workbench.runtime.parity.comparison import Comparison
from workbench.runtime.parity.local_tensors import LocalTensor
from workbench.runtime.parity.lower_precision import LowerPrecision
from workbench.runtime.parity.reference import ReferenceStep
from workbench.runtime.parity.tolerance import Tolerance
from workbench.testing.conformance import run_case

ROUNDING = 1e-9
COMPRESSION, LOCAL_SGD = Lossy(limit=0.5), Lossy(limit=0.0, changes="parameters", every=2)
NAME = "gradient of weight"


def compared(
    split: float, shards: float, batch: float | None, lossy: Lossy | None = None, hides_dependence: bool = False
) -> tuple[Comparison, bool]:
    """A step in which each side computes a tensor of one value, and whether the reference continues from the split."""
    comparison = Comparison(lossy, Tolerance(ROUNDING, global_norm_share=1e-3), hides_dependence)
    of_batch = None if batch is None else {NAME: torch.full((4,), batch)}
    reference = ReferenceStep({NAME: torch.full((4,), shards)}, of_batch)
    halves = [LocalTensor(NAME, (offset,), torch.full((2,), split)) for offset in (0, 2)]
    return comparison, comparison.add_step(0, reference, halves)


@pytest.mark.parametrize(
    ("split", "shards", "batch", "verdict", "error", "continues"),
    [
        (1.0, 1.0, None, "equal", 0.0, False),
        (1.0, 1.0, 1.0, "equal", 0.0, False),
        (1.0, 1.0, 2.0, "equal per shard", 0.0, False),
        (1.0, 2.0, 1.0, "equal", 0.0, True),  # synchronized batch norm: workers compute their shards together
        (1.0, 2.0, 2.0, "wrong", 0.5, False),
        (1.0, 2.0, 4.0, "wrong", 0.5, False),
        (1.0, 2.0, None, "wrong", 0.5, False),
    ],
)
def test_the_verdict_says_which_reference_the_split_equals(
    split: float, shards: float, batch: float | None, verdict: Verdict, error: float, continues: bool
) -> None:
    comparison, continues_from_split = compared(split, shards, batch)
    assert (comparison.verdict, continues_from_split) == (verdict, continues)
    assert comparison.reported_error.error == pytest.approx(error)
    assert comparison.batch_dependent_tensors == ({NAME} if verdict == "equal per shard" else set())


@pytest.mark.parametrize(
    ("split", "batch", "lossy", "verdict", "continues"),
    [
        (1.25, 1.0, COMPRESSION, "lossy", True),
        (1.75, 1.0, COMPRESSION, "wrong", True),
        (1.0, 1.0, COMPRESSION, "lossy", True),
        (1.0, None, LOCAL_SGD, "lossy", False),
        (1.25, None, LOCAL_SGD, "wrong", False),
    ],
)
def test_a_declared_difference_is_lossy_up_to_its_bound(
    split: float, batch: float | None, lossy: Lossy, verdict: Verdict, continues: bool
) -> None:
    comparison, continues_from_split = compared(split, 1.0, batch, lossy)
    assert (comparison.verdict, continues_from_split) == (verdict, continues)


def test_a_declared_difference_does_not_hide_that_sharding_causes_one() -> None:
    comparison, _ = compared(1.25, 1.0, 2.0, COMPRESSION)
    assert (comparison.verdict, comparison.batch_dependent_tensors) == ("lossy", {NAME})


def test_a_model_that_depends_on_the_batch_by_less_than_rounding_is_equal_per_shard() -> None:
    assert compared(1.0, 1.0, 1.0, hides_dependence=True)[0].verdict == "equal per shard"


@pytest.mark.parametrize(
    ("shards", "batch", "lower_precision", "verdict", "cause", "allowed"),
    [
        (1.0, 1.0 + 1e-7, "Norm computes in fp32", "equal", "Norm computes in fp32", 1e-6),
        (1.0 + 1e-7, 1.0 + 1e-7, "Norm computes in fp32", "equal", "Norm computes in fp32", 1e-6),
        (1.0, 1.0, "Norm computes in fp32", "equal", None, ROUNDING),
        (1.0, 1.0 + 1e-5, "Norm computes in fp32", "equal per shard", None, 1e-6),
        (1.0 + 1e-5, 1.0 + 1e-5, "Norm computes in fp32", "wrong", None, 1e-6),
        (1.0, 1.0 + 1e-7, None, "equal per shard", None, ROUNDING),
        (1.0 + 1e-7, 1.0 + 1e-7, None, "wrong", None, ROUNDING),
    ],
)
def test_rounding_in_fp32_is_allowed_where_something_computes_in_fp32(
    shards: float, batch: float, lower_precision: str | None, verdict: Verdict, cause: str | None, allowed: float
) -> None:
    comparison = Comparison(None, Tolerance(ROUNDING, global_norm_share=1e-3), False, lower_precision)
    reference = ReferenceStep(*({NAME: torch.full((4,), value, dtype=torch.float64)} for value in (shards, batch)))
    comparison.add_step(0, reference, [LocalTensor(NAME, (0,), torch.ones(4, dtype=torch.float64))])
    assert (comparison.verdict, comparison.cause_of_rounding, comparison.reported_error.allowed) == (verdict, cause, allowed)


def test_what_computes_in_fp32_is_named_by_class_and_path() -> None:
    lower = LowerPrecision(module := SingleNorm().double())
    with lower:
        module(torch.randn(2, 64, dtype=torch.float64)).sum().float()
    assert lower.cause == "Norm (norms.0 and 1 more) computes in fp32 and the loss computes in fp32"
    with (exact := LowerPrecision(module := Shared().double())):
        module(torch.randn(2, 64, dtype=torch.float64)).sum()
    assert exact.cause is None


@pytest.mark.parametrize("weight_in_single", [True, pytest.param(False, marks=pytest.mark.cross)])
def test_a_module_that_computes_in_fp32_is_equal_with_that_reason(weight_in_single: bool) -> None:
    model = {"name": f"{Path(zoo.__file__)}:SingleNorm", "options": {"weight_in_single": weight_in_single}}
    parity = run_case(
        {"model": model, "dataset": "digits", "split": {"data": 2}, "train": compatibility.TRAIN, "launch": {"device": "cpu"}}
    ).parity
    # A weight outside sums its gradient over the batch in fp64; the rest is computed of each sample alone.
    cause = "Norm (norms/0 and 1 more) computes in fp32" if weight_in_single else None
    assert (parity["verdict"], parity["cause"]) == ("equal", cause), parity
    assert (parity["whole_batch_error"] > ROUNDING) == weight_in_single


class Chosen(nn.Module):
    """Chooses what it computes with an operator for control flow."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, torch.relu, torch.tanh, (self.embed(x).float(),))


def test_operators_for_control_flow_are_followed() -> None:
    x, module = torch.ones(2, 4, dtype=torch.float64), Chosen().double()
    with (lower := LowerPrecision(module)):
        module(x)
    assert lower.cause == "Chosen computes in fp32"
    assert reads_values(module, x, lambda: module(x))


def test_a_wrong_optimizer_is_wrong_whatever_the_gradients() -> None:
    comparison, _ = compared(1.0, 1.0, 1.0)
    comparison.add_optimizer({"parameter weight after steps of adam": 1e-3}, ROUNDING)
    assert (comparison.verdict, comparison.reported_error.tensor) == ("wrong", "parameter weight after steps of adam")


@pytest.mark.parametrize(
    ("moved", "exceeding", "is_explained"),
    [
        ([{"outputs": 1e-12, "loss": 0.0}, {"outputs": 0.3}], [{}, {"outputs": 0.5}], True),
        ([{"outputs": 1e-12, "loss": 0.0}, {"outputs": 0.3}], [{}, {"outputs": 40.0}], False),
        ([{"outputs": 0.3, "loss": 0.1}, {"outputs": 0.3}], [{}, {"outputs": 0.5}], False),  # another choice among equal scores
        ([{"outputs": 1e-4, "loss": 0.0}, {}], [{"outputs": 5e-3}, {}], False),
        ([{"outputs": 1e-12, "loss": 0.0}, {"outputs": math.inf}], [{}, {"outputs": math.inf}], False),
        (None, [{}, {"outputs": 0.5}], False),
    ],
)
def test_rounding_explains_what_grows_from_step_to_step_alone(
    moved: Movements | None, exceeding: list[dict[str, float]], is_explained: bool
) -> None:
    assert explains(moved, exceeding) == is_explained


AMPLIFYING = """
import torch
import torch.distributed as dist
from torch import nn

class Amplifying(nn.Module):
    def __init__(self, num_sines=1, is_wrong=False, is_random=False):
        super().__init__()
        self.is_random = is_random
        self.layer, self.head, self.num_sines, self.is_wrong = nn.Linear(16, 16), nn.Linear(16, 10), num_sines, is_wrong

    def forward(self, x):
        x = self.layer(x)
        for _ in range(self.num_sines):
            x = torch.sin(4 * x)
        if self.is_random:
            x = x + torch.empty_like(x).exponential_()
        return self.head(x) + (0.01 * dist.get_rank() if self.is_wrong and dist.is_initialized() else 0)
"""


@pytest.mark.parametrize(
    ("options", "verdict"),
    [
        ({"num_sines": 24}, "undecided"),
        ({"num_sines": 24, "is_wrong": True}, "wrong"),
        pytest.param({"num_sines": 1}, "equal", marks=pytest.mark.cross),
        pytest.param({"num_sines": 1, "is_wrong": True}, "wrong", marks=pytest.mark.cross),
        pytest.param({"is_random": True}, "wrong", marks=pytest.mark.cross),
    ],
)
def test_a_model_that_amplifies_rounding_leaves_the_verdict_open(
    tmp_path: Path, options: dict[str, Any], verdict: Verdict
) -> None:
    (tmp_path / "amplifying.py").write_text(AMPLIFYING)
    parity = run_case(
        {
            "model": {
                "name": f"{tmp_path}/amplifying.py:Amplifying",
                "options": options,
            },
            "dataset": {"name": "synthetic", "kind": "features", "num_features": 16, "num_samples": 256},
            "train": {"num_steps": 1, "num_warmup_steps": 0, "global_batch_size": 8},
            "split": {"data": {"size": 2, "num_accumulation_steps": 2}},
        }
    ).parity
    assert parity["verdict"] == verdict, parity
    assert parity["ok"] == {"undecided": None, "wrong": False}.get(verdict, True)
    if verdict == "undecided":
        assert "one worker differs from itself, up to a factor of 100, as much" in parity["cause"]
        assert "more samples per shard" in parity["remedy"]
