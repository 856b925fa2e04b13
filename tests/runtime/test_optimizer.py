"""The optimizer as configured: torch's own results, the schedule's formula, and parity of groups, decay and schedule."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.helpers import cases
from tests.helpers.sizes import larger_are_slow
from workbench.errors import SpecError
from workbench.plan import compatibility
from workbench.plan.optimizer import learning_rate_factor, optimizer_text
from workbench.plan.resolve import plan
from workbench.runtime.batches import Batches
from workbench.runtime.build import build_blocks
from workbench.spec import RunSpec
from workbench.spec.train import Train
from workbench.testing.workers import run_in_workers

AS_PEOPLE_TRAIN: dict[str, Any] = {
    "optimizer": "adamw",
    "learning_rate": 3e-3,
    "weight_decay": 0.1,
    "decay_norms_and_biases": False,
    "betas": [0.9, 0.95],
    "lr_schedule": "cosine",
    "num_lr_warmup_steps": 2,
    "min_lr_ratio": 0.1,
}
WITH_MOMENTUM: dict[str, Any] = {
    "optimizer": "momentum",
    "learning_rate": 0.05,
    "momentum": 0.8,
    "weight_decay": 0.02,
    "decay_norms_and_biases": True,
    "lr_schedule": "linear",
}
DECAYED = 0.1


def spec_of(model: str, split: dict[str, Any], train: dict[str, Any]) -> dict[str, Any]:
    return compatibility.cases({"": split}, {model: compatibility.models()[model]}, ["train"])[0].spec | {
        "train": {**compatibility.TRAIN, **train}
    }


def test_a_step_is_torchs_with_groups_and_a_schedule() -> None:
    """Twenty lines of plain torch reach the same losses."""
    spec = spec_of("transformer", {}, {**AS_PEOPLE_TRAIN, "num_warmup_steps": 1, "num_steps": 6})
    planned, device = plan(RunSpec(**spec)), torch.device("cpu")
    batches, model = Batches(planned, device, torch.float32), build_blocks(planned, _names(planned), torch.float32)
    weights = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": weights, "weight_decay": DECAYED}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.95))
    rise = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) / 2)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5, eta_min=3e-4)
    scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, fall], [2])
    losses = []
    for step in range(7):
        inputs, targets = batches.step_batch(step)
        optimizer.zero_grad()
        loss = planned.model.loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    (worker,) = run_in_workers(1, cases.training, spec)
    assert worker["losses"][:7] == pytest.approx(losses, abs=1e-6)


def _names(planned: Any) -> list[str]:
    return [block.name for block in planned.full_model.blocks]


SPLITS: dict[str, tuple[str, dict[str, Any]]] = {
    "zero1 · tensor": ("transformer", {"zero1": 2, "tensor": 2}),
    "fsdp · tensor": ("transformer", {"fsdp": 2, "tensor": 2}),
    "expert": ("moe", {"expert": 2}),
    "compressed": ("mlp", {"data": {"size": 2, "compression": "bf16"}}),
}
"""The conformance suite takes the steps of AdamW with all of this under every split."""


@pytest.mark.parametrize("split", larger_are_slow(SPLITS, lambda split: SPLITS[split][1]))
def test_momentum_under_a_split_is_that_of_one_worker(split: str) -> None:
    model, parts = SPLITS[split]
    spec = spec_of(model, parts, WITH_MOMENTUM)
    report = run_in_workers(plan(RunSpec(**spec)).num_workers, cases.parity, spec, None)[0]
    assert report["ok"] is (None if split == "compressed" else True), report


MISTAKES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("norms and biases decayed", {"data": 2}, AS_PEOPLE_TRAIN),
    ("norms and biases decayed", {"tensor": 2}, AS_PEOPLE_TRAIN),
    ("group lost", {"zero1": 2}, AS_PEOPLE_TRAIN),
    ("schedule on one worker", {"fsdp": 2}, AS_PEOPLE_TRAIN),
    ("schedule on one worker", {"zero1": 2}, WITH_MOMENTUM),
    ("other betas", {"pipeline": 2}, AS_PEOPLE_TRAIN),
    ("other momentum", {"data": {"size": 2, "compression": "bf16"}}, WITH_MOMENTUM),
]


@pytest.mark.parametrize(("mistake", "split", "train"), MISTAKES, ids=lambda value: value if isinstance(value, str) else "")
def test_a_mistake_of_the_optimizer_is_noticed(mistake: str, split: dict[str, Any], train: dict[str, Any]) -> None:
    report = run_in_workers(2, cases.parity, spec_of("mlp", split, train), mistake)[0]
    assert report["ok"] is False, report


def test_the_learning_rate_rises_and_decays_to_its_minimum() -> None:
    train = Train(lr_schedule="cosine", num_lr_warmup_steps=4, num_lr_decay_steps=10, min_lr_ratio=0.2)
    factors = [learning_rate_factor(train, step) for step in range(20)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[9] == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 2)) / 2)
    assert factors[14:] == [pytest.approx(0.2)] * 6
    linear = train.model_copy(update={"lr_schedule": "linear"})
    assert learning_rate_factor(linear, 9) == pytest.approx(0.6)
    default = Train(lr_schedule="linear", num_warmup_steps=3, num_steps=7)
    assert learning_rate_factor(default, 9) == pytest.approx(0.1), "the last timed step is not wasted"
    assert learning_rate_factor(default, 10) == 0.0


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "betas of sgd": ({"optimizer": "sgd", "betas": [0.9, 0.95]}, "train.betas", "has no betas"),
    "epsilon of momentum": ({"optimizer": "momentum", "epsilon": 1e-6}, "train.epsilon", "use adam or adamw"),
    "momentum of adamw": ({"momentum": 0.9}, "train.momentum", "use sgd or momentum"),
    "a beta of one": ({"betas": [0.9, 1.0]}, "train.betas.1", "less than 1"),
    "one beta": ({"betas": 0.9}, "train.betas", "a list"),
    "negative decay": ({"weight_decay": -0.1}, "train.weight_decay", "at least 0"),
    "no decay to exclude from": ({"optimizer": "adam", "decay_norms_and_biases": False},
                                 "train.decay_norms_and_biases", "set train.weight_decay"),
    "a minimum that is never reached": ({"min_lr_ratio": 0.1}, "train.min_lr_ratio", "use linear or cosine"),
    "nothing to decay over": ({"lr_schedule": "cosine", "num_steps": 5, "num_lr_warmup_steps": 8},
                              "train.num_lr_warmup_steps", "use at most 7"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_optimizer_does_not_take_is_refused(case: str) -> None:
    train, path, sentence = REFUSED[case]
    with pytest.raises(SpecError, match=sentence) as refused:
        plan(RunSpec(train=train))
    assert str(refused.value).startswith(path)


def test_the_optimizer_is_described_in_one_line() -> None:
    assert optimizer_text(Train(**AS_PEOPLE_TRAIN, num_lr_decay_steps=8)) == (
        "AdamW, learning rate 0.003, linear warm-up over 2 steps, then cosine decay to 0.1 × learning rate over 8 steps,"
        " betas 0.9, 0.95, epsilon 1e-08, weight decay 0.1 (except norms and biases)"
    )
    assert optimizer_text(Train(optimizer="sgd")) == "SGD, learning rate 0.001"
