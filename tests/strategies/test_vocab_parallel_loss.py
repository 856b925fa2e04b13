"""The loss of scores that stay in slices of the vocabulary: torch's, as by formula, without the whole scores anywhere."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import cases
from workbench.errors import SplitError
from workbench.plan.resolve import plan
from workbench.spec import RunSpec
from workbench.testing.workers import run_in_workers

TEXT = {"name": "text", "sequence_length": 8}
GPT: dict[str, Any] = {"name": "transformer", "num_layers": 1, "hidden_dim": 16, "num_heads": 2, "feedforward_dim": 32}
TIED = {**GPT, "tied_head": True}
MOE = {"name": "moe", "num_layers": 1, "hidden_dim": 16, "num_heads": 2, "feedforward_dim": 32}
LSTM = {"name": "lstm", "num_layers": 1, "hidden_dim": 12}
VIT = {"name": "vit", "num_layers": 1, "hidden_dim": 16, "num_heads": 2, "feedforward_dim": 32}
IMAGES = {"name": "synthetic", "kind": "images", "channels": 1, "height": 8, "width": 8}
SLICES = {"size": 2, "parallel_loss": True}
PARTS = {**SLICES, "sequence_parallel": True}
PIPELINE = {"size": 2, "num_microbatches": 2}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "gpt-like": (GPT, {"tensor": SLICES}, {}),
    "moe, 2 workers": (MOE, {"tensor": SLICES}, {}),
    "lstm, a head with a bias": (LSTM, {"tensor": SLICES}, {}),
    "vit, scores of no sequence": (VIT, {"tensor": SLICES}, {"dataset": IMAGES}),
    "on parts of the sequence, 4 workers": ({**GPT, "num_heads": 4}, {"tensor": {**PARTS, "size": 4}}, {}),
    "tied, data, clipped": (TIED, {"tensor": SLICES, "data": 2}, {"train": {"max_gradient_norm": 0.1}}),
    "tied, 1f1b, parts of the sequence": (TIED, {"tensor": PARTS, "pipeline": PIPELINE}, {}),
    "interleaved": ({**GPT, "num_layers": 2}, {"tensor": SLICES, "pipeline": {**PIPELINE, "schedule": "interleaved_1f1b"}}, {}),
    "layer": (GPT, {"tensor": SLICES, "layer": 2}, {}),
    "fsdp": (GPT, {"tensor": SLICES, "fsdp": 2}, {}),
    "context": (GPT, {"tensor": SLICES, "context": 2}, {}),
    "checkpointing, full": (GPT, {"tensor": PARTS}, {"train": {"checkpointing": "full"}}),
    "inference": (GPT, {"tensor": SLICES}, {"mode": "inference"}),
    "inference in a pipeline": (GPT, {"tensor": SLICES, "pipeline": PIPELINE}, {"mode": "inference"}),
}


def spec_of(model: dict[str, Any], split: dict[str, Any], **others: Any) -> dict[str, Any]:
    train = {"num_steps": 2, "num_warmup_steps": 0, "global_batch_size": 4, **others.pop("train", {})}
    return {"model": model, "dataset": TEXT, "split": split, "train": train, **others}


@pytest.mark.parametrize("num_workers", [2, 3])
@pytest.mark.parametrize(("dtype", "scale", "tolerance"), [("fp64", 1.0, 1e-12), ("fp64", 1e4, 1e-12), ("bf16", 4.0, 2**-7)])
def test_the_loss_of_slices_is_torchs_loss_of_the_whole(dtype: str, scale: float, tolerance: float, num_workers: int) -> None:
    for errors in run_in_workers(num_workers, cases.cross_entropy_of_slices, dtype, scale):
        assert errors.keys() == {"loss", "gradient"}
        assert max(errors.values()) <= tolerance, errors


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_scores_in_slices_equal_one_workers_and_their_formulas(name: str) -> None:
    model, split, others = CASES[name]
    cases.assert_split_as_by_formula(spec_of(model, split, **others))


def test_the_scores_are_whole_nowhere() -> None:
    """With a large vocabulary they are most of the activations; each worker then holds its slice alone."""
    dataset = {"name": "synthetic", "kind": "tokens", "vocabulary_size": 1000, "sequence_length": 16}
    spec = {"dataset": dataset, "measure": {"num_memory_steps": 1}}
    peaks = []
    for options in ({"size": 2}, SLICES):
        results = run_in_workers(2, cases.training, spec_of(GPT, {"tensor": options}, **spec))
        peaks.append(max(r["peak_memory_bytes"] for r in results))
    scores = 4 * 16 * 1000 * 4
    assert peaks[0] - peaks[1] > scores, peaks


@pytest.mark.parametrize(
    ("model", "dataset", "tensor", "message"),
    [
        (
            GPT,
            TEXT,
            {**SLICES, "cut": {"head": "hidden"}},
            "transformer does not support parallel_loss, .*: its head is not cut by vocabulary",
        ),
        (GPT, TEXT, {**SLICES, "cut": {"head": "none"}}, "its head is not cut by vocabulary"),
        ({"name": "mlp"}, "digits", SLICES, "mlp .* requires a head cut by vocabulary: it has no such head"),
        ({"name": "lstm"}, {"name": "sunspots"}, SLICES, "it has no such head"),
    ],
)
def test_scores_that_do_not_lie_in_slices_are_refused(model: Any, dataset: Any, tensor: Any, message: str) -> None:
    with pytest.raises(SplitError, match=message):
        plan(RunSpec(model=model, dataset=dataset, split={"tensor": tensor}))
