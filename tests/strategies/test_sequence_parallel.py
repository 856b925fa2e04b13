"""Tensor slicing that leaves parts of the sequence between the cut layers: equal to one worker, as by formula, smaller."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import cases
from workbench.errors import SplitError
from workbench.plan.resolve import plan
from workbench.spec import RunSpec
from workbench.testing.workers import run_in_workers

GPT: dict[str, Any] = {"name": "transformer", "num_layers": 2, "hidden_dim": 16, "num_heads": 4, "feedforward_dim": 32}
TIED = {**GPT, "tied_head": True}
LLAMA = {**GPT, "num_kv_heads": 2, "feedforward": "gated", "positions": "rotary", "norm": "rms", "bias": False}
PARTS = {"size": 2, "sequence_parallel": True}
FULL = {"checkpointing": "full"}
INTERLEAVED = {"size": 2, "schedule": "interleaved_1f1b", "num_microbatches": 2}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "gpt-like, clipped": (GPT, {"tensor": PARTS}, {"train": {"max_gradient_norm": 0.1}}),
    "llama-like": (LLAMA, {"tensor": PARTS}, {}),
    "4 workers": (GPT, {"tensor": {**PARTS, "size": 4}}, {}),
    "data, in pieces": (GPT, {"tensor": PARTS, "data": {"size": 2, "num_accumulation_steps": 2}}, {}),
    "1f1b, tied and clipped": (
        TIED,
        {"tensor": PARTS, "pipeline": {"size": 2, "num_microbatches": 2}},
        {"train": {"max_gradient_norm": 0.1}},
    ),
    "interleaved, llama-like": (LLAMA, {"tensor": PARTS, "pipeline": INTERLEAVED}, {}),
    "layer": (GPT, {"tensor": PARTS, "layer": 2}, {}),
    "fsdp, tied and clipped": (TIED, {"tensor": PARTS, "fsdp": 2}, {"train": {"max_gradient_norm": 0.1}}),
    "context": (GPT, {"tensor": PARTS, "context": 2}, {}),
    "checkpointing, full": (TIED, {"tensor": PARTS}, {"train": FULL}),
    "checkpointing, full, llama-like pipeline": (
        LLAMA,
        {"tensor": PARTS, "pipeline": {"size": 2, "num_microbatches": 2}},
        {"train": FULL},
    ),
    "checkpointing, selective": (GPT, {"tensor": PARTS}, {"train": {"checkpointing": "selective"}}),
    "inference": (GPT, {"tensor": PARTS}, {"mode": "inference"}),
    "inference in a pipeline": (GPT, {"tensor": PARTS, "pipeline": {"size": 2, "num_microbatches": 2}}, {"mode": "inference"}),
}


def spec_of(model: dict[str, Any], split: dict[str, Any], **others: Any) -> dict[str, Any]:
    train = {"num_steps": 2, "num_warmup_steps": 0, "global_batch_size": 4, **others.pop("train", {})}
    return {"model": model, "dataset": {"name": "text", "sequence_length": 16}, "split": split, "train": train, **others}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_parts_of_the_sequence_equal_one_worker_and_their_formulas(name: str) -> None:
    model, split, others = CASES[name]
    cases.assert_split_as_by_formula(spec_of(model, split, **others))


def test_parity_notices_norms_whose_gradients_stay_parts() -> None:
    report = run_in_workers(2, cases.parity, spec_of(GPT, {"tensor": PARTS}), "parts not summed")[0]
    assert not report["ok"]


def test_as_many_bytes_travel_as_with_whole_activations_and_the_small_gradients_more() -> None:
    """A ring's all-reduce of S sends 2 (n−1)/n S, its all-gather and reduce-scatter half of that each."""
    whole, parts = (plan(RunSpec(**spec_of(GPT, {"tensor": o}))).expected_communication for o in ({"size": 2}, PARTS))
    halves = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1}
    sent = [sum(halves[t.operation] * t.count * t.payload_bytes for t in expected) for expected in (whole, parts)]
    small = next(t.payload_bytes for t in parts if t.operation == "all_reduce")
    norms_and_positions = 5 * 2 * 16 + 16 * 16
    assert small == norms_and_positions * 4
    assert sent[1] == sent[0] + 2 * small


def test_stages_hand_on_parts_of_the_sequence() -> None:
    """Every worker of the tensor axis sends its part once, and not the whole each."""
    pipeline = {"size": 2, "num_microbatches": 2}
    whole, parts = (
        plan(RunSpec(**spec_of(GPT, {"tensor": tensor, "pipeline": pipeline}))).expected_communication
        for tensor in ({"size": 2}, PARTS)
    )
    sends = [{t.phase: t.payload_bytes for t in expected if t.operation == "send"} for expected in (whole, parts)]
    assert sends[0].keys() == {"forward", "backward"}
    assert sends[0] == {phase: 2 * payload for phase, payload in sends[1].items()}


@pytest.mark.slow
def test_activations_take_less_memory_than_with_plain_slicing() -> None:
    """A layer keeps four whole activations for backward, x and norm(x) of both its parts; each x becomes a quarter."""
    model = {**GPT, "num_layers": 6, "hidden_dim": 64, "feedforward_dim": 64}
    spec = {"measure": {"num_memory_steps": 1}, "train": {"global_batch_size": 16}}
    activations = []
    for options in ({"size": 4}, {**PARTS, "size": 4}):
        results = run_in_workers(4, cases.training, spec_of(model, {"tensor": options}, **spec))
        activations.append(max(r["kept_activation_bytes"] for r in results))
    assert activations[1] < 0.8 * activations[0], activations


@pytest.mark.parametrize(
    ("model", "dataset", "split", "message"),
    [
        ({"name": "mlp"}, "digits", {"tensor": PARTS}, "mlp cannot be split along the sequence"),
        ({"name": "moe"}, "text", {"tensor": PARTS}, "router statistics"),
        ({"name": "vit"}, {"name": "synthetic", "kind": "images"}, {"tensor": PARTS}, "class token"),
        ({"name": "lstm"}, "text", {"tensor": PARTS}, "lstm cannot be split along the sequence"),
        (GPT, "text", {"tensor": {**PARTS, "cut": {"head": "hidden"}}}, "head cut by vocabulary, but got hidden"),
        (GPT, "text", {"tensor": {**PARTS, "cut": {"attention": "none"}}}, "attention cut by heads, but got none"),
        (
            GPT,
            {"name": "text", "sequence_length": 15},
            {"tensor": PARTS},
            r"15 positions are not divisible by 2 workers \(remainder 1\); use a divisor of 15",
        ),
        (
            GPT,
            {"name": "text", "sequence_length": 12},
            {"tensor": {**PARTS, "size": 4}, "context": 2},
            r"6 positions per worker of the context axis are not divisible by 4 workers \(remainder 2\)",
        ),
    ],
)
def test_what_cannot_work_on_parts_is_refused(model: Any, dataset: Any, split: Any, message: str) -> None:
    with pytest.raises(SplitError, match=message):
        plan(RunSpec(model=model, dataset=dataset, split=split))
