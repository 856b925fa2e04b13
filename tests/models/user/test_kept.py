"""The expected activations of a user's module are what workers measure, within 5 %."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from workbench.models.user.inspection import INSPECTOR
from workbench.plan.memory import expected_memory
from workbench.plan.plan import Plan
from workbench.plan.resolve import plan
from workbench.spec import RunSpec
from workbench.testing import cases
from workbench.testing.workers import run_in_workers

pytestmark = pytest.mark.slow
TOKENS = {"name": "synthetic", "kind": "tokens", "sequence_length": 16, "vocabulary_size": 64, "num_samples": 64}
IMAGES = {"name": "synthetic", "kind": "images", "height": 16, "width": 16, "num_samples": 64}
NETS = """import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention


class Layer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 96), nn.GELU(), nn.Dropout(0.1), nn.Linear(96, width))

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.mlp(x)


class Language(nn.Module):
    def __init__(self, width=64):
        super().__init__()
        self.embed, self.layers = nn.Embedding(64, width), nn.ModuleList(Layer(width) for _ in range(4))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 64)

    def forward(self, tokens):
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.relu, self.up = nn.ReLU(inplace=True), nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.last, self.head = nn.Conv2d(16, 8, 3, padding=1), nn.Linear(8, 10)

    def forward(self, x):
        first = self.relu(self.down1(x))
        second = self.relu(self.down2(first))
        return self.head(self.last(torch.cat([first, self.up(second)], 1)).mean((2, 3)))


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.head = nn.Linear(768, 64), nn.Linear(768, 64), nn.Linear(64, 10)

    def forward(self, x):
        x = x.flatten(1)
        return self.head(self.left(x).tanh() if x.sum() > 1e9 else self.right(x).tanh() + self.left(x).tanh())
"""
SPLITS: dict[str, dict[str, Any]] = {
    "single": {},
    "dp2": {"data": 2},
    "layer2": {"layer": 2},
    "pp2, gpipe": {"pipeline": {"size": 2, "num_microbatches": 4, "schedule": "gpipe"}},
    "pp2, 1f1b": {"pipeline": {"size": 2, "num_microbatches": 4}},
}


def training(rank: int, recorder: Any, control: Any, spec: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """As of the conformance suite, with a model that was inspected before."""
    INSPECTOR._known.update(found)
    return cases.training(rank, recorder, control, spec)


def planned(name: str, dataset: dict[str, Any], split: dict[str, Any], folder: Path, **train: Any) -> tuple[Plan, dict[str, Any]]:
    (folder / "nets.py").write_text(NETS)
    spec = {
        "model": {"name": f"{folder}/nets.py:{name}"},
        "dataset": dataset,
        "split": split,
        "train": {"num_steps": 1, "num_warmup_steps": 0, "global_batch_size": 16, **train},
        "measure": {"num_trace_steps": 1},
        "launch": {"device": "cpu"},
    }
    return plan(RunSpec(**spec)), spec


@pytest.mark.parametrize(
    ("name", "dataset", "split"),
    [
        *(("Language", TOKENS, split) for split in SPLITS),
        ("UNet", IMAGES, "single"),
        ("Branches", IMAGES, "dp2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_expected_activations_are_the_measured_ones(name: str, dataset: dict[str, Any], split: str, tmp_path: Path) -> None:
    found, spec = planned(name, dataset, SPLITS[split], tmp_path)
    workers = run_in_workers(found.num_workers, training, spec, INSPECTOR._known)
    for rank, worker in enumerate(workers):
        assert expected_memory(found, rank).activations == pytest.approx(worker["kept_activation_bytes"], rel=0.05)


def test_recomputed_blocks_and_copies_that_cross_have_none(tmp_path: Path) -> None:
    found, _ = planned("UNet", IMAGES, {"layer": 2}, tmp_path)
    assert expected_memory(found, 0).activations is None
    found, _ = planned("Language", TOKENS, {}, tmp_path, checkpointing="full")
    assert expected_memory(found, 0).activations is None
