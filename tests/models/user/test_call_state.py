"""Modules that keep state between calls in plain attributes: it is restored as buffers are, and named where it matters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from workbench.models.user.state_modules import Attributes, Calls
from workbench.plan import compatibility
from workbench.plan.call_state import CallState
from workbench.testing.conformance import run_case

CODE = """
import torch
from torch import nn

class Counter(nn.Linear):
    def __init__(self):
        super().__init__(8, 8)
        self.step, self.calls = 0, []

    def forward(self, x):
        self.step += 1
        self.calls.append(self.step)
        return super().forward(x) * (1 + 0.1 * sum(self.calls))

def counting():
    return nn.Sequential(nn.Linear(64, 8), Counter(), nn.Linear(8, 10))
"""
PIPELINE = {"pipeline": {"size": 2, "num_microbatches": 2}}


@pytest.mark.parametrize(
    ("split", "train", "verdict"),
    [
        pytest.param({"data": 2}, {}, "equal", marks=pytest.mark.cross),
        (PIPELINE, {}, "equal per shard"),
        pytest.param({"layer": 2}, {"checkpointing": "full"}, "wrong", marks=pytest.mark.cross),
    ],
    ids=str,
)
def test_the_verdict_names_a_counter(tmp_path: Path, split: dict[str, Any], train: dict[str, Any], verdict: str) -> None:
    (tmp_path / "counts.py").write_text(CODE)
    spec = {
        "model": f"{tmp_path}/counts.py:counting",
        "dataset": "digits",
        "split": split,
        "train": {**compatibility.TRAIN, **train},
        "measure": compatibility.MEASURE,
        "launch": {"device": "cpu"},
    }
    parity = run_case(spec).parity
    assert parity["verdict"] == verdict
    named = verdict != "equal"
    assert ("attributes 1.step and 1.calls" in (parity["cause"] or "")) == named, parity


class Stateful(nn.Module):
    """Keeps what ``kind`` says."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.step, self.last = kind, 0, torch.zeros(4)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        match self.kind:
            case "counter":
                self.step += 1
                return x * self.step
            case "running value":
                self.last = 0.9 * self.last + 0.1 * x.detach().mean(0)
                return x + self.last
            case "random":
                return x * torch.rand(())
            case "buffer":
                self.count += 1
                return x * self.count
            case "not read":
                self.step, self.last = self.step + 1, x
            case "in place":
                return x.add_(1)
        return x


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("counter", ("step",)),
        ("running value", ("last",)),
        ("random", None),
        ("buffer", None),
        ("not read", None),
        ("in place", None),
    ],
)
def test_what_changes_the_result_is_found(kind: str, attributes: tuple[str, ...] | None) -> None:
    root = Stateful(kind)
    calls = Calls(root, torch.randn(2, 4))
    calls.add(root(calls.inputs()))
    root(torch.randn(3, 4))
    calls.add(root(calls.inputs()))
    assert calls.state == (None if attributes is None else CallState(attributes, is_certain=True))


def test_without_a_second_call_the_sentence_says_may() -> None:
    root = Stateful("not read")
    calls = Calls(root, torch.randn(2, 4))
    calls.add(root(calls.inputs()))
    root(torch.randn(3, 4))
    assert calls.state is not None
    assert "may depend on earlier calls of the module, which change its attributes step and last" in calls.state.dependence.cause


def test_attributes_are_restored_in_place() -> None:
    root = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    shared: list[int] = [1]
    root[0].seen = root[1].seen = shared
    attributes = Attributes(root, ["0.seen", "1.step"])
    saved = attributes.saved()
    shared.append(2)
    root[1].step = 3
    attributes.restore(saved)
    assert root[1].seen is shared == [1]
    assert not hasattr(root[1], "step")
