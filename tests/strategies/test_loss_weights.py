"""Batches whose pieces have unequal numbers of targets that count: every split computes what one worker computes."""

from __future__ import annotations

import functools
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.helpers.sizes import larger_are_slow
from workbench.plan.resolve import plan
from workbench.runtime.batches import Batches
from workbench.runtime.build import build_blocks
from workbench.spec import RunSpec
from workbench.testing import cases
from workbench.testing.workers import run_in_workers

NUM_STEPS, BATCH, RATE = 4, 8, 0.5
PADDED = {"name": "synthetic", "num_samples": 64, "sequence_length": 16, "vocabulary_size": 16, "padded": True,
          "seed": 12}  # fmt: skip
GPT = {"name": "transformer", "num_layers": 2, "hidden_dim": 16, "num_heads": 4, "feedforward_dim": 32}
LSTM = {"name": "lstm", "num_layers": 2, "hidden_dim": 16}
MOE = {**GPT, "name": "moe", "router_loss_weight": 0.0}
PIPELINE = {"size": 2, "num_microbatches": 8}
SLICES = {"size": 2, "parallel_loss": True}
SPLITS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "one sample a worker": (GPT, {"data": 8}),
    "fsdp, accumulation": (GPT, {"data": {"size": 2, "shard": "parameters", "num_accumulation_steps": 4}}),
    "zero1": (GPT, {"zero1": 2}),
    "layer": (GPT, {"layer": 2}),
    "gpipe": (GPT, {"pipeline": {**PIPELINE, "schedule": "gpipe"}}),
    "1f1b, data": (GPT, {"pipeline": {"size": 2, "num_microbatches": 4}, "data": 2}),
    "zero bubble": (GPT, {"pipeline": {**PIPELINE, "schedule": "zbv_zero_bubble"}}),
    "time chunks": (LSTM, {"pipeline": {**PIPELINE, "schedule": "time_chunks"}}),
    "context": (GPT, {"context": 2}),
    "contiguous context, data": (GPT, {"context": {"size": 2, "balance": "contiguous"}, "data": 2}),
    "loss of slices, 1f1b": (GPT, {"tensor": SLICES, "pipeline": PIPELINE}),
    "loss of slices": (GPT, {"tensor": SLICES}),
    "experts": (MOE, {"expert": 2}),
}


def spec_of(model: dict[str, Any], split: dict[str, Any], **parts: Any) -> dict[str, Any]:
    train = {"num_steps": NUM_STEPS, "num_warmup_steps": 0, "global_batch_size": BATCH, "precision": "fp64"}
    train |= {"optimizer": "sgd", "learning_rate": RATE}
    measure, launch = {"num_trace_steps": 1}, {"device": "cpu"}
    return {"model": model, "dataset": PADDED, "split": split, "train": train, "measure": measure, "launch": launch, **parts}


def built(spec: dict[str, Any]) -> tuple[nn.Sequential, Batches]:
    planned = plan(RunSpec(**{**spec, "split": {}}))
    blocks = build_blocks(planned, (block.name for block in planned.full_model.blocks), torch.float64)
    return blocks, Batches(planned, torch.device("cpu"), torch.float64)


@functools.cache
def losses_in_plain_torch(model: str) -> list[float]:
    """Of SGD on the mean over all tokens of the batch that are no padding."""
    blocks, batches = built(spec_of({"transformer": GPT, "lstm": LSTM, "moe": MOE}[model], {}))
    losses = []
    for step in range(NUM_STEPS):
        inputs, targets = batches.step_batch(step)
        scores, is_token = blocks(inputs), targets != -100
        loss = cross_entropy(scores[is_token], targets[is_token])
        for parameter, gradient in zip(blocks.parameters(), torch.autograd.grad(loss, [*blocks.parameters()]), strict=True):
            parameter.data -= RATE * gradient
        losses.append(loss.item())
    return losses


def test_a_batch_has_samples_without_a_target() -> None:
    """Without them nothing here would meet a piece whose targets are all ignored."""
    _, batches = built(spec_of(GPT, {}))
    counts = torch.stack([(batches.step_batch(step)[1] != -100).sum(1) for step in range(NUM_STEPS)])
    assert (counts == 0).any()
    assert len(counts.unique()) > 4


@pytest.mark.parametrize("name", larger_are_slow(SPLITS, lambda name: SPLITS[name][1]))
def test_ignored_targets_leave_every_split_equal_to_one_worker(name: str) -> None:
    model, split = SPLITS[name]
    spec = spec_of(model, split)
    num_workers = plan(RunSpec(**spec)).num_workers
    reports, workers = zip(*run_in_workers(num_workers, cases.parity_and_training, spec), strict=True)
    assert reports[0]["verdict"] == "equal", reports[0]
    assert reports[0]["whole_batch_error"] < 1e-9
    for step, wanted in enumerate(losses_in_plain_torch(model["name"])):
        found = fmean(w["losses"][step] for w in workers if w["losses"][step] is not None)
        assert found == pytest.approx(wanted, abs=1e-12), step


def test_parity_notices_pieces_that_are_averaged_without_their_weights() -> None:
    report = run_in_workers(2, cases.parity, spec_of(GPT, {"data": 2}), "weights left out")[0]
    assert report["verdict"] == "wrong"
    assert report["whole_batch_error"] > 0.01


CNN = {"name": "cnn", "widths": [8, 16], "norm": "batch"}


def relative_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest of any tensor, as the parity check has it."""
    whole = float(torch.cat([tensor.flatten() for tensor in b.values()]).norm())
    return max(float((a[name] - b[name]).norm()) / max(float(b[name].norm()), 1e-3 * whole) for name in b)


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_compression_does_not_hide_that_shards_are_not_the_whole_batch(norm: str) -> None:
    split = {"data": {"size": 2, "compression": "fp16"}}
    report = run_in_workers(2, cases.parity, spec_of({**CNN, "norm": norm}, split, dataset="digit_images"), "")[0]
    assert (report["verdict"], report["cause"] is not None) == ("lossy", norm == "batch")
    assert (report["whole_batch_error"] > 10 * report["max_error"]) is (norm == "batch")


def test_the_roundings_of_bf16_do_not_make_shards_the_whole_batch() -> None:
    model = {**MOE, "router_loss_weight": 0.01}
    report = run_in_workers(2, cases.parity, spec_of(model, {"data": 2}, measure={"parity_precision": "bf16"}), None)[0]
    assert (report["ok"], report["verdict"]) == (True, "equal per shard"), report
    assert "the load-balancing loss of the router" in report["cause"]


@pytest.mark.parametrize("is_synchronized", [False, True])
def test_batch_norm_of_each_replica_is_equal_per_shard(is_synchronized: bool) -> None:
    spec = spec_of(CNN, {"data": {"size": 4, "sync_batch_norm": is_synchronized}}, dataset="digit_images")
    spec["train"] |= {"learning_rate": 0.1, "global_batch_size": 16}
    reports, workers = zip(*run_in_workers(4, cases.parity_and_training, spec), strict=True)
    blocks, batches = built(spec)
    inputs, targets = batches.step_batch(0)

    def gradients(*pieces: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        losses = torch.stack([cross_entropy(blocks(x), y) for x, y in pieces])
        names, parameters = zip(*blocks.named_parameters(), strict=True)
        return dict(zip(names, torch.autograd.grad(losses.mean(), parameters), strict=True))

    shards = zip(inputs.chunk(4), targets.chunk(4), strict=True)
    error = relative_difference(gradients(*shards), gradients((inputs, targets)))
    first_loss = fmean(worker["losses"][0] for worker in workers)
    if is_synchronized:
        assert reports[0]["verdict"] == "equal"
        assert reports[0]["whole_batch_error"] < 1e-9
        assert first_loss == pytest.approx(2.637289, abs=1e-6)
    else:
        assert reports[0]["verdict"] == "equal per shard"
        assert reports[0]["ok"]
        assert reports[0]["max_error"] < 1e-9
        assert reports[0]["whole_batch_error"] >= error * (1 - 1e-9) > 0.1
        assert "batch normalization" in reports[0]["cause"]
        assert first_loss == pytest.approx(2.578751, abs=1e-6)
