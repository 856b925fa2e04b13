"""Attention over a split sequence equals attention over the whole, and a split costs what its formulas say."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.helpers import cases
from workbench.errors import SplitError
from workbench.metrics.communication import measured_communication
from workbench.plan.resolve import plan
from workbench.spec import RunSpec
from workbench.strategies.context import ContextOptions, ContextStrategy
from workbench.strategies.context.all_gather_attention import AllGatherExchange
from workbench.strategies.context.exchange import Pair
from workbench.strategies.context.partial_attention import attend, attend_backward, attend_backward_by_hand, attend_by_hand
from workbench.strategies.context.ring_attention import RingExchange
from workbench.testing.workers import run_in_workers

ATTENTIONS, BALANCES = ("ring", "all_gather"), ("zigzag", "contiguous")
LENGTH = 48
SPEC: dict[str, Any] = {
    "model": {"name": "transformer", "num_layers": 2, "hidden_dim": 16, "num_heads": 2, "feedforward_dim": 32},
    "dataset": {"name": "text", "sequence_length": 16},
    "train": {"num_steps": 3, "num_warmup_steps": 0, "global_batch_size": 4},
}


@pytest.mark.parametrize("num_workers", [2, 3, 4])
@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_attention_over_parts_equals_attention_over_the_whole(attention: str, balance: str, num_workers: int) -> None:
    options = {"size": num_workers, "attention": attention, "balance": balance}
    for errors in run_in_workers(num_workers, cases.split_attention, options):
        assert errors.keys() == {"values", "gradient of q", "gradient of k", "gradient of v"}
        assert max(errors.values()) <= 1e-12


def test_attributes_of_an_unrelated_module_stay() -> None:
    for found in run_in_workers(2, cases.apply_beside_another_module, {**SPEC, "split": {"context": 2}}):
        assert found == {"product": "a product", "attention_fn": "a function", "positions": "some positions"}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.bfloat16, 2**-6)])
@pytest.mark.parametrize("is_causal", [True, False])
def test_attention_by_hand_is_the_fused_one(is_causal: bool, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    q, gradient = torch.randn(2, 2, 4, 6, 8, dtype=dtype)
    k, v = torch.randn(2, 2, 2, 6, 8, dtype=dtype)
    fused, by_hand = attend(q, k, v, is_causal), attend_by_hand(q, k, v, is_causal)
    torch.testing.assert_close(by_hand, fused, atol=tolerance, rtol=tolerance)
    arguments = gradient, q, *fused, k, v, is_causal
    by_hand, fused = attend_backward_by_hand(*arguments), attend_backward(*arguments)
    torch.testing.assert_close(by_hand, fused, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("num_workers", [2, 3, 4, 8])
@pytest.mark.parametrize("exchange", [RingExchange, AllGatherExchange])
def test_only_what_the_mask_leaves_is_computed_and_zigzag_divides_it_evenly(
    exchange: type[RingExchange | AllGatherExchange], num_workers: int
) -> None:
    zigzag, contiguous = (_scores_per_worker(exchange, num_workers, balance) for balance in BALANCES)
    assert sum(zigzag) == sum(contiguous) == LENGTH * (LENGTH + 1) // 2
    assert len(set(zigzag)) == 1
    assert max(contiguous) > 1.4 * sum(contiguous) / num_workers


def test_parity_notices_positions_that_are_not_told() -> None:
    spec = {**SPEC, "split": {"context": 2}}
    report = run_in_workers(2, cases.parity, spec, "positions not told")[0]
    assert not report["ok"]


OTHER_RUNS: dict[str, dict[str, Any]] = {
    "checkpointing, full": {"train": {"checkpointing": "full"}},
    "checkpointing, selective": {"train": {"checkpointing": "selective"}},
    "bf16": {"train": {"precision": "bf16"}, "measure": {"parity_precision": "bf16"}},
    "clipped": {"train": {"max_gradient_norm": 0.1}},
    "inference": {"mode": "inference"},
}


@pytest.mark.slow
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("run", OTHER_RUNS)
def test_other_kinds_of_runs_equal_one_worker_and_their_formulas(run: str, attention: str) -> None:
    other = OTHER_RUNS[run]
    spec = {**SPEC, **other, "train": {**SPEC["train"], **other.get("train", {})}}
    spec["split"] = {"context": {"size": 2, "attention": attention}, **({"data": 2} if run == "clipped" else {})}
    planned = plan(RunSpec(**spec))
    report = run_in_workers(planned.num_workers, cases.parity, spec, None)[0]
    assert report["ok"], report
    expected: Counter[tuple[str, str, str]] = Counter()
    for t in planned.expected_communication:
        expected[t.operation, t.axis, t.phase] += t.count * t.payload_bytes
    measured = measured_communication(run_in_workers(planned.num_workers, cases.training, spec))
    assert {(t["operation"], t["axis"], t["phase"]): t["payload_bytes"] for t in measured} == dict(expected)


@pytest.mark.parametrize(
    ("model", "split", "message"),
    [
        ({"model": "mlp"}, {"size": 2}, "mlp cannot be split along the sequence"),
        ({"model": "moe"}, {"size": 2}, "router statistics"),
        ({"model": "lstm", "dataset": "text"}, {"size": 2}, "recurrence"),
        ({"model": "vit"}, {"size": 2}, "class token"),
        (
            {"model": "transformer", "dataset": {"name": "text", "sequence_length": 18}},
            {"size": 4},
            "18 positions are not divisible into 8 chunks .*: the remainder is 2; use a sequence length of 16",
        ),
        (
            {"model": "transformer", "dataset": {"name": "text", "sequence_length": 18}},
            {"size": 4, "balance": "contiguous"},
            "18 positions are not divisible into 4 chunks",
        ),
    ],
)
def test_what_cannot_be_split_along_the_sequence_is_refused(model: dict[str, Any], split: dict[str, Any], message: str) -> None:
    with pytest.raises(SplitError, match=message):
        plan(RunSpec(**model, split={"context": split}))


def test_a_step_counts_the_tokens_that_a_worker_computes() -> None:
    for result in run_in_workers(2, cases.training, {**SPEC, "split": {"context": 2}}):
        assert set(result["tokens"]) == {4 * 16 // 2}


def _scores_per_worker(exchange: type[RingExchange | AllGatherExchange], num_workers: int, balance: str) -> list[int]:
    """Products of a query and a key that each worker computes."""
    strategy = ContextStrategy(ContextOptions(size=num_workers, balance=balance))
    ranges = strategy.position_ranges(LENGTH)
    counts = []
    for rank, mine in enumerate(ranges):
        visits = exchange(ranges, SimpleNamespace(rank=lambda r=rank: r, size=lambda: num_workers)).pairs
        held = sum(map(len, mine))
        pairs = [pair for visit in visits for pair in visit] if exchange is RingExchange else visits
        counts.append(sum(_scores(pair, held) for pair in pairs))
    return counts


def _scores(pair: Pair, held: int) -> int:
    queries, keys = (len(range(held if part == slice(None) else LENGTH)[part]) for part in (pair.queries, pair.keys))
    return queries * (queries + 1) // 2 if pair.is_causal else queries * keys
