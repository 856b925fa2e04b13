"""Attention over a split sequence equals attention over the whole, and a split costs what its formulas say."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests import cases
from tests.pool import run_in_workers
from workbench.errors import SplitError
from workbench.plan.feasibility import plan
from workbench.spec import RunSpec
from workbench.strategies.attention_modules import attend, attend_backward, attend_backward_by_hand, attend_by_hand

ATTENTIONS, BALANCES = ("ring", "all_gather"), ("zigzag", "contiguous")


@pytest.mark.parametrize("num_workers", [2, 3, 4])
@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_attention_over_parts_equals_attention_over_the_whole(attention: str, balance: str, num_workers: int) -> None:
    options = {"size": num_workers, "attention": attention, "balance": balance}
    for errors in run_in_workers(num_workers, cases.split_attention, options):
        assert errors.keys() == {"values", "gradient of q", "gradient of k", "gradient of v"}
        assert max(errors.values()) <= 1e-12


@pytest.mark.parametrize("is_causal", [True, False])
def test_attention_by_hand_is_the_fused_one(is_causal: bool) -> None:
    torch.manual_seed(0)
    q, gradient = torch.randn(2, 2, 4, 6, 8, dtype=torch.float64)
    k, v = torch.randn(2, 2, 2, 6, 8, dtype=torch.float64)
    fused, by_hand = attend(q, k, v, is_causal), attend_by_hand(q, k, v, is_causal)
    torch.testing.assert_close(by_hand, fused)
    arguments = gradient, q, *fused, k, v, is_causal
    torch.testing.assert_close(attend_backward_by_hand(*arguments), attend_backward(*arguments))


@pytest.mark.parametrize("num_workers", [2, 3, 4, 8])
def test_zigzag_gives_every_worker_the_same_work_and_a_contiguous_cut_does_not(num_workers: int) -> None:
    zigzag, contiguous = (_scores_per_worker(num_workers, balance) for balance in BALANCES)
    length = _length(num_workers)
    assert sum(zigzag) == sum(contiguous) == length * (length + 1) // 2
    assert len(set(zigzag)) == 1
    assert max(contiguous) / min(contiguous) > num_workers


@pytest.mark.parametrize(
    ("model", "split", "message"),
    [
        ({"model": "mlp"}, {"size": 2}, "mlp cannot be split along a sequence"),
        ({"model": "moe"}, {"size": 2}, "router's statistics"),
        ({"model": "lstm", "dataset": "text"}, {"size": 2}, "recurrence"),
        ({"model": "vit"}, {"size": 2}, "class token"),
        (
            {"model": "transformer", "dataset": {"name": "text", "sequence_length": 18}},
            {"size": 4},
            "18 positions do not divide into 8 chunks .*: 2 would be over; use a sequence of 16",
        ),
        (
            {"model": "transformer", "dataset": {"name": "text", "sequence_length": 18}},
            {"size": 4, "balance": "contiguous"},
            "18 positions do not divide into 4 chunks",
        ),
    ],
)
def test_what_cannot_be_split_along_the_sequence_is_refused(model: dict[str, Any], split: dict[str, Any], message: str) -> None:
    with pytest.raises(SplitError, match=message):
        plan(RunSpec(**model, split={"context": split}))


def test_a_step_counts_the_tokens_that_a_worker_computes() -> None:
    spec = {"model": "transformer", "dataset": {"name": "text", "sequence_length": 16}, "split": {"context": 2},
            "train": {"num_steps": 1, "num_warmup_steps": 0, "global_batch_size": 4}}  # fmt: skip
    for result in run_in_workers(2, cases.training, spec):
        assert set(result["tokens"]) == {4 * 16 // 2}


def _length(num_workers: int) -> int:
    return 2 * num_workers * 16


def _scores_per_worker(num_workers: int, balance: str) -> list[int]:
    """Pairs of a query and a key that it sees, by worker."""
    split = {"context": {"size": num_workers, "balance": balance}}
    dataset = {"name": "text", "sequence_length": _length(num_workers)}
    (strategy,) = plan(RunSpec(model="transformer", dataset=dataset, split=split)).strategies
    runs = strategy.runs(_length(num_workers))  # type: ignore[attr-defined]
    assert sorted(p for worker in runs for run in worker for p in run) == list(range(_length(num_workers)))
    return [sum(position + 1 for run in worker for position in run) for worker in runs]
