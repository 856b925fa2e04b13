"""Pieces of a batch in which no target counts, and modules that draw at random: splits are one worker."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.plan import compatibility
from workbench.runtime.parity.errors import compare
from workbench.runtime.parity.local_tensors import LocalTensor
from workbench.testing.conformance import assert_conforms, run_case

CODE = """
import random

import torch
import torch.nn.functional as F
from torch import nn

class Scores(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.layers = nn.Embedding(20, 8), nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.head, self.other = nn.Linear(8, 20), nn.Linear(8, 20)

    def hidden(self, tokens):
        x = self.tokens(tokens)
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x

class TwoHeads(Scores):
    def forward(self, tokens):
        x = self.hidden(tokens)
        return {"logits": self.head(x), "other": self.other(x)}

class Masked(Scores):
    def forward(self, tokens):
        never = torch.arange(20) >= 18
        x = self.hidden(tokens)
        return (self.head(x) + self.other(x)).masked_fill(never, float("-inf"))

class StochasticDepth(nn.Module):
    def forward(self, x):
        if not self.training:
            return x
        keep = torch.floor(torch.rand(len(x), 1, dtype=x.dtype) + 0.8)
        return x / 0.8 * keep + torch.randn_like(x) * torch.empty_like(x).bernoulli_(0.3)

class StochasticLinear(nn.Linear):
    def forward(self, x):
        x = super().forward(x)
        return x * torch.floor(torch.rand(len(x), 1, dtype=x.dtype) + 0.8) + x.tanh() * torch.randn_like(x)

def drawing():
    return nn.Sequential(nn.Linear(64, 8), StochasticLinear(8, 8), nn.Linear(8, 10))

def stochastic():
    return nn.Sequential(nn.Linear(64, 8), nn.Sequential(nn.Linear(8, 8), StochasticDepth()), nn.Linear(8, 10))

class LayerDrop(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.layers, self.head = nn.Linear(64, 8), nn.ModuleList(nn.Linear(8, 8) for _ in range(4)), nn.Linear(8, 10)

    def forward(self, x):
        x = self.embed(x)
        for layer in self.layers:
            if not self.training or random.random() > 0.3:
                x = torch.tanh(layer(x))
        return self.head(x)[:, None]

def loss(outputs, targets):
    heads = outputs.values() if isinstance(outputs, dict) else [outputs]
    return sum(F.cross_entropy(scores.flatten(0, 1), targets.flatten()) for scores in heads)

def every_second_has_targets():
    draw = torch.Generator().manual_seed(0)
    tokens, targets = (torch.randint(18, (32, 6), generator=draw) for _ in range(2))
    targets[::2] = -100
    return torch.utils.data.TensorDataset(tokens, targets)
"""


@pytest.mark.parametrize(
    ("model", "batch", "split"),
    [
        ("TwoHeads", 2, {"data": 2}),
        pytest.param("TwoHeads", 2, {"fsdp": 2}, marks=pytest.mark.cross),
        pytest.param("Masked", 8, {"pipeline": {"size": 2, "num_microbatches": 8}}, marks=pytest.mark.cross),
        ("stochastic", 8, {"pipeline": {"size": 2, "num_microbatches": 4}}),
        pytest.param("stochastic", 8, {"data": 2}, marks=pytest.mark.cross),
        pytest.param("stochastic", 8, {"tensor": 2}, marks=pytest.mark.cross),
        ("LayerDrop", 8, {"data": 2}),
    ],
    ids=str,
)
def test_a_split_is_one_worker(tmp_path: Path, model: str, batch: int, split: dict[str, Any]) -> None:
    (tmp_path / "pieces.py").write_text(CODE)
    file, is_random = f"{tmp_path}/pieces.py", model in ("stochastic", "LayerDrop")
    spec = {
        "model": {"name": f"{file}:{model}", **({} if model == "stochastic" else {"loss": f"{file}:loss"})},
        "dataset": "digits" if is_random else f"{file}:every_second_has_targets",
        "split": split,
        "train": {**compatibility.TRAIN, "global_batch_size": batch},
        "measure": compatibility.MEASURE,
        "launch": {"device": "cpu"},
    }
    if is_random:  # the losses of steps in single precision are drawn
        parity = run_case(spec).parity
        assert parity["verdict"] == "equal"
        return
    assert_conforms(spec)


@pytest.mark.parametrize("split", [{}, pytest.param({"layer": 2}, marks=pytest.mark.cross)], ids=str)
def test_a_recomputed_block_draws_what_it_drew(tmp_path: Path, split: dict[str, Any]) -> None:
    (tmp_path / "pieces.py").write_text(CODE)
    spec = {
        "model": f"{tmp_path}/pieces.py:drawing",
        "dataset": "digits",
        "split": split,
        "train": {**compatibility.TRAIN, "checkpointing": "full"},
        "measure": compatibility.MEASURE,
        "launch": {"device": "cpu"},
    }
    parity = run_case(spec).parity
    assert parity["verdict"] == "equal", parity


def test_infinities_on_both_sides_are_equal() -> None:
    scores = torch.tensor([1.0, -math.inf, 2.0])
    for values, error in ((scores, 0.0), (torch.tensor([1.0, 0.0, 2.0]), math.inf), (-scores, math.inf)):
        assert compare({"outputs": scores}, [LocalTensor("outputs", (0,), values)], 0.0) == {"outputs": error}
