"""Every split × model: computes what one worker computes, moves the bytes and holds the parameters of its formulas."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from typing import Any

import pytest

from tests import cases
from tests.pool import run_in_workers
from workbench.plan.feasibility import plan
from workbench.spec import RunSpec
from workbench.store.summary import measured_transfers

TEXT = {"name": "text", "sequence_length": 16}
IMAGES = {"name": "synthetic", "kind": "images", "channels": 1, "height": 8, "width": 8}
MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"model": {"name": "mlp", "num_layers": 2, "hidden_dim": 16, "feedforward_dim": 32}, "dataset": "digits"},
    "transformer": {
        "model": {"name": "transformer", "num_layers": 2, "hidden_dim": 16, "num_heads": 2, "feedforward_dim": 32},
        "dataset": TEXT,
    },
    "tied transformer": {
        "model": {"name": "transformer", "num_layers": 2, "hidden_dim": 16, "num_heads": 2, "feedforward_dim": 32,
                  "tied_head": True},
        "dataset": TEXT,
    },
    "llama-like transformer": {
        "model": {"name": "transformer", "num_layers": 2, "hidden_dim": 16, "num_heads": 4, "num_kv_heads": 2,
                  "feedforward_dim": 24, "feedforward": "gated", "positions": "rotary", "norm": "rms", "bias": False},
        "dataset": TEXT,
    },
    "vit": {
        "model": {"name": "vit", "patch_size": 2, "num_layers": 2, "hidden_dim": 16, "num_heads": 2, "feedforward_dim": 32},
        "dataset": IMAGES,
    },
    "vit that pools": {
        "model": {"name": "vit", "patch_size": 4, "num_layers": 2, "hidden_dim": 16, "num_heads": 2, "feedforward_dim": 32,
                  "pooling": "mean"},
        "dataset": IMAGES,
    },
    "moe": {
        "model": {"name": "moe", "num_layers": 2, "hidden_dim": 16, "num_heads": 2, "feedforward_dim": 32,
                  "num_experts": 4, "top_k": 2},
        "dataset": TEXT,
    },
    "moe that drops": {
        "model": {"name": "moe", "num_layers": 2, "hidden_dim": 16, "num_heads": 2, "feedforward_dim": 32,
                  "num_experts": 4, "top_k": 1, "capacity_factor": 1.0, "feedforward": "gated", "router_loss_weight": 0.1},
        "dataset": TEXT,
    },
    "cnn": {"model": {"name": "cnn", "widths": [4, 8], "blocks_per_stage": 1, "num_groups": 4}, "dataset": "digit_images"},
    "cnn, batch norm": {"model": {"name": "cnn", "widths": [4, 8], "blocks_per_stage": 1, "norm": "batch"},
                        "dataset": "digit_images"},
    "lstm": {"model": {"name": "lstm", "num_layers": 2, "hidden_dim": 16}, "dataset": TEXT},
    "gru of a series": {"model": {"name": "lstm", "cell": "gru", "num_layers": 2, "hidden_dim": 16},
                        "dataset": {"name": "sunspots", "length": 16}},
}  # fmt: skip
SPLITS: dict[str, dict[str, Any]] = {
    "data": {"data": 2},
    "layer": {"layer": 2},
    "gpipe": {"pipeline": {"size": 2, "schedule": "gpipe", "num_microbatches": 4}},
    "1f1b": {"pipeline": {"size": 2, "schedule": "1f1b", "num_microbatches": 4}},
    "tensor": {"tensor": 2},
    "fsdp": {"fsdp": 2},
}
PIPELINE = {"size": 2, "num_microbatches": 2}
GATHERED = {"size": 2, "attention": "all_gather"}
# The sequence is split: every way to do it on the model with the most options, and with each other strategy once.
OF_THE_SEQUENCE: dict[str, dict[str, dict[str, Any]]] = {
    "llama-like transformer": {
        "ring": {"context": 2},
        "ring, contiguous": {"context": {"size": 2, "balance": "contiguous"}},
        "gathered": {"context": GATHERED},
        "gathered, contiguous": {"context": {**GATHERED, "balance": "contiguous"}},
        "ring of 4": {"context": 4},
        "ring, tensor": {"context": 2, "tensor": 2},
    },
    "transformer": {
        "ring, data": {"context": 2, "data": 2},
        "ring, pipeline": {"context": 2, "pipeline": PIPELINE},
        "ring, layer": {"context": 2, "layer": 2},
        "gathered, tensor": {"context": GATHERED, "tensor": 2},
    },
    "tied transformer": {"gathered, pipeline": {"context": GATHERED, "pipeline": PIPELINE}},
}
FOUR_MICROBATCHES = {"size": 2, "num_microbatches": 4}
# Replicas are sharded, or compute in pieces: alone and inside other strategies, with every way in which a schedule gathers.
OF_THE_REPLICAS: dict[str, dict[str, dict[str, Any]]] = {
    "mlp": {
        "zero1": {"zero1": 2},
        "zero2": {"zero2": 2},
        "fsdp of 4, which some rows do not divide by": {"fsdp": 4},
        "accumulated": {"data": {"size": 2, "num_accumulation_steps": 2}},
        "zero1, small buckets": {"zero1": {"size": 2, "bucket_size_mib": 0.002}},
    },
    "transformer": {
        "zero1, tensor": {"zero1": 2, "tensor": 2},
        "zero2, gpipe": {"zero2": 2, "pipeline": {**FOUR_MICROBATCHES, "schedule": "gpipe"}},
        "fsdp, tensor": {"fsdp": 2, "tensor": 2},
        "fsdp, interleaved 1f1b": {"fsdp": 2, "pipeline": {**FOUR_MICROBATCHES, "schedule": "interleaved_1f1b"}},
        "fsdp, zbv": {"fsdp": 2, "pipeline": {**FOUR_MICROBATCHES, "schedule": "zbv_zero_bubble"}},
        "fsdp, 1f1b, tensor": {"fsdp": 2, "pipeline": FOUR_MICROBATCHES, "tensor": 2},
        "hsdp": {"fsdp": {"size": 4, "shard_size": 2}},
        "fsdp, accumulated": {"fsdp": {"size": 2, "num_accumulation_steps": 2}},
        "tensor, accumulated": {"data": {"size": 2, "num_accumulation_steps": 2}, "tensor": 2},
    },
    "tied transformer": {
        "zero1, layer": {"zero1": 2, "layer": 2},
        "fsdp, gpipe": {"fsdp": 2, "pipeline": {**FOUR_MICROBATCHES, "schedule": "gpipe"}},
        "fsdp, 1f1b": {"fsdp": 2, "pipeline": FOUR_MICROBATCHES},
        "hsdp, tensor": {"zero2": {"size": 4, "shard_size": 2}, "tensor": 2},
    },
}
TRAIN = {"num_steps": 6, "num_warmup_steps": 2, "global_batch_size": 8}
PAIRS = [(model, split) for model in MODELS for split in SPLITS]
for combinations in (OF_THE_SEQUENCE, OF_THE_REPLICAS):
    PAIRS += [(model, split) for model, splits in combinations.items() for split in splits]
    SPLITS |= {name: split for splits in combinations.values() for name, split in splits.items()}
# What these compute of a sample depends on the samples beside it, which in a replica or microbatch are fewer than one worker
# sees; parity compares them with one worker that takes the same pieces.
OF_THE_BATCH = ("moe", "moe that drops", "cnn, batch norm")
SAME_LOSSES = [(m, s) for m, s in PAIRS if m not in OF_THE_BATCH or s in ("layer", "tensor")]


def spec_of(model: str, split: dict[str, Any]) -> dict[str, Any]:
    return {**MODELS[model], "split": split, "train": TRAIN}


@cache
def trained(model: str, split: str) -> str:
    spec = spec_of(model, SPLITS[split] if split else {})
    results = run_in_workers(plan(RunSpec(**spec)).num_workers, cases.training, spec)
    return json.dumps(results)


def results_of(model: str, split: str) -> list[dict[str, Any]]:
    return list(json.loads(trained(model, split)))


@pytest.mark.parametrize(("model", "split"), PAIRS)
def test_a_split_computes_what_one_worker_computes(model: str, split: str) -> None:
    spec = spec_of(model, SPLITS[split])
    report = run_in_workers(plan(RunSpec(**spec)).num_workers, cases.parity, spec, None)[0]
    assert report["ok"], report
    assert report["max_error"] <= 1e-9


@pytest.mark.parametrize(
    ("split", "fault"),
    [("data", "gradients not averaged"), ("tensor", "slice dropped"), ("gpipe", "microbatch lost")],
)
@pytest.mark.parametrize("model", ["mlp", "transformer"])
def test_the_parity_check_notices_a_mistake(model: str, split: str, fault: str) -> None:
    report = run_in_workers(2, cases.parity, spec_of(model, SPLITS[split]), fault)[0]
    assert not report["ok"]


@pytest.mark.parametrize(("model", "split"), PAIRS)
def test_the_bytes_that_move_are_the_formulas(model: str, split: str) -> None:
    expected: Counter[tuple[str, str, str]] = Counter()
    for t in plan(RunSpec(**spec_of(model, SPLITS[split]))).transfers:
        expected[t.operation, t.axis, t.phase] += t.count * t.payload_bytes
    measured = {(t["operation"], t["axis"], t["phase"]): t["payload_bytes"] for t in measured_transfers(results_of(model, split))}
    assert measured == dict(expected)


@pytest.mark.parametrize(("model", "split"), PAIRS)
def test_each_worker_holds_the_parameters_of_the_formula(model: str, split: str) -> None:
    expected = plan(RunSpec(**spec_of(model, SPLITS[split]))).expected_record()["parameters_per_worker"]
    results = results_of(model, split)
    assert [r["parameters"] for r in results] == expected
    assert [r["parameter_bytes"] for r in results] == [4 * n for n in expected]


@pytest.mark.parametrize(("model", "split"), SAME_LOSSES)
def test_losses_in_single_precision_equal_one_workers(model: str, split: str) -> None:
    (single,) = results_of(model, "")
    per_rank = [r["losses"] for r in results_of(model, split)]
    for step, want in enumerate(single["losses"]):
        known = [losses[step] for losses in per_rank if losses[step] is not None]
        assert sum(known) / len(known) == pytest.approx(want, abs=1e-4)


@pytest.mark.parametrize("model", MODELS)
def test_the_formulas_summary_is_the_model_that_is_built(model: str) -> None:
    import torch

    from workbench.runtime.build import build_blocks

    planned = plan(RunSpec(**spec_of(model, {})))
    blocks = build_blocks(planned, (b.name for b in planned.summary.blocks), torch.float32)
    built = {name: tuple(p.shape) for name, p in blocks.named_parameters(remove_duplicate=False)}
    assert built == {p.name: p.shape for p in planned.summary.parameters}
    assert sum(p.numel() for p in blocks.parameters()) == planned.summary.num_parameters
