"""Dropout: off in inference; in training the same masks of a sample in every split, or off in the parity check."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from workbench import registry
from workbench.errors import SpecError
from workbench.models.dropout_modules import DropoutKeys, SampleDropout, SubstituteDropout
from workbench.plan import compatibility
from workbench.plan.plan import Plan
from workbench.plan.resolve import plan
from workbench.runtime.build import build_blocks, build_worker
from workbench.runtime.parity.check import check_parity
from workbench.runtime.parity.dropout import turn_off_dropout
from workbench.runtime.tracing.recorder import Recorder
from workbench.spec import RunSpec
from workbench.testing.cases import CPU
from workbench.testing.conformance import assert_conforms

OWN_MODEL = '''
from torch import nn
from workbench.models.base import model
from workbench.models.inferred import OwnModel

@model("with_dropout")
class WithDropout(OwnModel):
    """A perceptron with dropout and batch norm."""

    default_dataset = "digits"

    def blocks(self):
        return {
            "body": lambda: nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5)),
            "head": lambda: nn.Linear(32, 10),
        }
'''


@pytest.fixture
def own_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    path = tmp_path / "with_dropout.py"
    path.write_text(OWN_MODEL)
    monkeypatch.setenv("WORKBENCH_PLUGINS", str(path))
    registry._load.cache_clear()
    yield "with_dropout"
    registry._load.cache_clear()


def planned(model: str, **parts: object) -> Plan:
    return plan(RunSpec(model=model, train={"global_batch_size": 8}, launch={"device": "cpu"}, **parts))


@pytest.mark.parametrize("mode", ["train", "inference"])
def test_random_masks_do_not_fail_parity(own_model: str, mode: str) -> None:
    report = check_parity(planned(own_model, mode=mode), 0, None, Recorder(), CPU, None, 2)
    assert report is not None
    assert report.ok
    assert report.max_error < 1e-12
    assert report.is_without_dropout == (mode == "train")


FUNCTIONAL = {
    "dropout": "nn.functional.dropout(x, 0.5, True)",
    "in place, by name": "nn.functional.dropout(input=x, p=0.5, inplace=True)",
    "torch's own": "torch.dropout(x, 0.5, True)",
    "attention": "nn.functional.scaled_dot_product_attention(*[x[:, None]] * 3, dropout_p=0.5)[:, 0]",
    "attention, by position": "nn.functional.scaled_dot_product_attention(*[x[:, None]] * 3, None, 0.5)[:, 0]",
}


@pytest.mark.parametrize("expression", FUNCTIONAL.values(), ids=FUNCTIONAL)
def test_dropout_by_a_function_does_not_fail_parity(expression: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "functional.py"
    body = f"class Body(nn.Linear):\n    def forward(self, x):\n        x = super().forward(x)\n        return {expression}\n\n"
    path.write_text(OWN_MODEL.replace("from torch import nn", "import torch\nfrom torch import nn")
                    .replace("@model", body + "@model").replace("nn.Dropout(0.5)", "Body(32, 32)"))  # fmt: skip
    monkeypatch.setenv("WORKBENCH_PLUGINS", str(path))
    registry._load.cache_clear()
    report = check_parity(planned("with_dropout"), 0, None, Recorder(), CPU, None, 2)
    registry._load.cache_clear()
    assert report is not None
    assert report.verdict == "equal"
    assert report.is_without_dropout


def test_a_worker_is_in_eval_mode_in_inference_alone(own_model: str) -> None:
    for mode in ("train", "inference"):
        worker = build_worker(planned(own_model, mode=mode), 0, None, Recorder(), CPU, torch.float32)
        assert {module.training for module in worker.blocks.modules()} == {mode == "train"}


def test_inference_with_batch_norm_does_not_depend_on_the_batch(own_model: str) -> None:
    blocks = build_blocks(planned(own_model, mode="inference"), ["body", "head"], torch.float64)
    samples = torch.randn(8, 64, dtype=torch.float64)
    torch.testing.assert_close(blocks(samples)[:3], blocks(samples[:3]))


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.AlphaDropout(0.5), nn.LSTM(4, 4, 2, dropout=0.5),
                                   nn.TransformerEncoderLayer(4, 2, 8, dropout=0.5)], ids=lambda l: type(l).__name__)  # fmt: skip
def test_every_kind_of_dropout_is_turned_off(layer: nn.Module) -> None:
    model, x = nn.Sequential(layer), torch.randn(3, 5, 4)

    def outputs() -> torch.Tensor:
        found = model(x)
        return found[0] if isinstance(found, tuple) else found

    assert not torch.equal(outputs(), outputs())
    assert turn_off_dropout(model)
    assert torch.equal(outputs(), outputs())
    assert model.training


SAMPLES, POSITIONS, FEATURES = 64, 20, 32
P = 0.25


def dropped(
    shape: tuple[int, ...] = (SAMPLES, POSITIONS, FEATURES), *, step: int = 0, seed: int = 0, layer: str = "first"
) -> Tensor:
    """What is left of ones of this shape."""
    layers = nn.ModuleDict({"first": SampleDropout(P), "second": SampleDropout(P)})
    DropoutKeys(layers, seed, CPU).begin_step(step, torch.arange(SAMPLES))
    return layers[layer](torch.ones(shape))


def test_a_mask_is_the_same_whatever_part_of_the_batch_and_of_the_sequence_is_computed() -> None:
    whole, layer = dropped(step=3), nn.ModuleDict({"first": SampleDropout(P)})
    keys, positions = DropoutKeys(layer, 0, CPU), torch.tensor([4, 5, 18, 19])
    keys.begin_step(3, torch.arange(16, 32))  # the second of four replicas
    layer["first"].positions = positions
    for piece in range(2):
        keys.begin_piece(piece, 2)
        first = 16 + 8 * piece
        part = layer["first"](torch.ones(8, len(positions), FEATURES))
        assert torch.equal(part, whole[first : first + 8, positions])


def test_elements_are_dropped_with_the_probability_and_without_regard_to_one_another() -> None:
    is_dropped = (dropped() == 0).double() - P
    variance, count = P * (1 - P), is_dropped.numel()
    assert abs(is_dropped.mean()) < 5 * (variance / count) ** 0.5
    others = [is_dropped.roll(1, dim) for dim in range(3)]
    others += [(dropped(**change) == 0).double() - P for change in ({"step": 1}, {"seed": 1}, {"layer": "second"})]
    for other in others:
        assert abs((is_dropped * other).mean()) < 5 * variance / count**0.5
    for dim in range(3):  # no sample, position or feature is dropped more often than the others
        shares = is_dropped.mean(tuple({0, 1, 2} - {dim}))
        assert shares.abs().max() < 5 * (variance * len(shares) / count) ** 0.5
    assert dropped().unique().tolist() == pytest.approx([0, 1 / (1 - P)])


def test_backward_takes_the_same_mask_and_keeps_nothing_for_it() -> None:
    layer, kept = SampleDropout(P), list[Tensor]()
    DropoutKeys(nn.ModuleDict({"first": layer}), 0, CPU).begin_step(0, torch.arange(SAMPLES))
    x = torch.randn(SAMPLES, FEATURES, dtype=torch.float64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        outputs = layer(x)
    outputs.sum().backward()
    assert not kept
    assert x.grad is not None
    torch.testing.assert_close(x.grad * x.detach(), outputs.detach())


def test_rows_that_belong_to_one_sample_have_its_key() -> None:
    layer = SampleDropout(P)
    keys = DropoutKeys(nn.ModuleDict({"first": layer}), 0, CPU)
    keys.begin_step(0, torch.arange(8))
    whole = layer(torch.ones(8 * 5, FEATURES))
    keys.begin_piece(1, 4)
    assert torch.equal(layer(torch.ones(2 * 5, FEATURES)), whole[10:20])
    assert not torch.equal(whole[:5], whole[5:10])
    assert not torch.equal(whole[0], whole[1])


def test_a_models_own_dropout_is_substituted_and_draws_the_masks_of_the_samples(own_model: str) -> None:
    worker = build_worker(planned(own_model), 0, None, Recorder(), CPU, torch.float32)
    assert isinstance(worker.blocks.get_submodule("body.3"), SubstituteDropout)
    x, layer = torch.ones(8, 32), worker.blocks.get_submodule("body.3")
    worker.begin_step(0)
    first = layer(x)
    worker.begin_step(1)
    assert not torch.equal(first, layer(x))
    worker.begin_step(0)
    assert torch.equal(first, layer(x))


@pytest.mark.parametrize("p", [-0.1, 1.0])
def test_a_probability_lies_below_one(p: float) -> None:
    with pytest.raises(SpecError) as error:
        RunSpec(model={"name": "mlp", "dropout": p})
    assert error.value.field == "model.dropout"


LLAMA, GRU, PIPELINE = "transformer, llama-like", "lstm, gru of a series", {"size": 2, "num_microbatches": 2}
SPLITS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "pieces of replicas": ("mlp, dropout", {"data": {"size": 2, "num_accumulation_steps": 2}}, {}),
    "microbatches, recomputed": (LLAMA, {"pipeline": {"size": 2, "num_microbatches": 4}}, {"checkpointing": "full"}),
    "two backward passes": ("mlp, dropout", {"pipeline": {**PIPELINE, "schedule": "interleaved_zero_bubble"}}, {}),
    "positions": (LLAMA, {"context": 2, "tensor": {"size": 2, "sequence_parallel": True}}, {}),
    "chunks of a sequence": (GRU, {"pipeline": {**PIPELINE, "schedule": "time_chunks"}}, {"checkpointing": "full"}),
    "recurrent slices": (GRU, {"tensor": 2}, {}),
    "recomputed slices": (LLAMA, {"tensor": 2}, {"checkpointing": "full"}),
}
USUAL = ("pieces of replicas", "two backward passes", "recomputed slices")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in USUAL else pytest.mark.slow) for name in SPLITS])
def test_a_split_draws_the_masks_of_one_worker(name: str) -> None:
    """In the parity check, and in the timed steps, whose losses are compared."""
    model, split, train = SPLITS[name]
    spec = compatibility.cases({"": split}, {"": compatibility.models(model.split(",")[0])[model]}, ["train"])[0].spec
    assert_conforms({**spec, "train": {**compatibility.TRAIN, **train}})


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_compiled_block_draws_the_same_masks_piece_by_piece() -> None:
    block = nn.Sequential(nn.Linear(FEATURES, FEATURES), SampleDropout(P))
    keys, x, outputs = DropoutKeys(block, 0, CPU), torch.randn(8, FEATURES), list[Tensor]()
    for is_compiled in (False, True):
        if is_compiled:
            block.compile()
        for step in range(2):
            keys.begin_step(step, torch.arange(16))
            keys.begin_piece(1, 2)
            outputs.append(block(x).detach())
    torch.testing.assert_close(outputs[2:], outputs[:2])
