"""Recurrent layers cut by gates or hidden features: equal to one worker, bytes as by formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from tests.helpers import cases
from tests.helpers.sizes import larger_are_slow
from workbench.errors import SplitError
from workbench.models.lstm_modules import Recurrent
from workbench.plan.layer_groups import RecurrentLayer
from workbench.plan.resolve import plan
from workbench.spec import RunSpec
from workbench.strategies.tensor.recurrent import RecurrentSlicing
from workbench.testing.workers import run_in_workers

TEXT, SERIES = {"name": "text", "sequence_length": 5}, {"name": "sunspots", "length": 5}
TRAIN = {"num_steps": 1, "num_warmup_steps": 0, "global_batch_size": 4}
CUTS: dict[str, tuple[dict[str, str], int, dict[str, Any], str]] = {
    "lstm by gates": ({"recurrent": "gates"}, 2, TEXT, "lstm"),
    "lstm by gates, 3 workers": ({"recurrent": "gates"}, 3, SERIES, "lstm"),
    "lstm by hidden features": ({"recurrent": "hidden"}, 2, SERIES, "lstm"),
    "gru by gates": ({"recurrent": "gates"}, 2, SERIES, "gru"),
    "gru by hidden features": ({"recurrent": "hidden"}, 2, TEXT, "gru"),
    "gru by hidden features, 3 workers": ({"recurrent": "hidden"}, 3, SERIES, "gru"),
}


def spec_of(name: str) -> dict[str, Any]:
    cut, size, dataset, cell = CUTS[name]
    model = {"name": "lstm", "cell": cell, "num_layers": 2, "hidden_dim": 12}
    return {"model": model, "dataset": dataset, "split": {"tensor": {"size": size, "cut": cut}}, "train": TRAIN}


@pytest.mark.parametrize("name", larger_are_slow(CUTS, lambda name: spec_of(name)["split"]))
def test_a_sliced_recurrent_net_equals_one_worker_and_its_formulas(name: str) -> None:
    cases.assert_split_as_by_formula(spec_of(name))


def in_chunks(rank: int, recorder: Any, control: Any, dim: str, cell: Any) -> dict[str, float]:
    """Largest differences between a sliced layer fed in two chunks and the whole layer fed at once."""
    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    blocks = torch.nn.Sequential()
    blocks.add_module("layer0", Recurrent(cell, 6, 8).to(torch.float64))
    x = torch.randn(3, 5, 6, dtype=torch.float64)
    want = blocks(x)
    whole = dict(zip(("input_weight", "hidden_weight", "input_bias", "hidden_bias"), torch.autograd.grad(
        want.square().sum(), tuple(blocks.parameters())), strict=True))  # fmt: skip
    RecurrentSlicing(RecurrentLayer("recurrent", "layer0", cell, 5, 6, 8), dim, 2).apply(blocks, mesh)
    first, state = blocks.layer0.forward_with_state(x[:, :2])
    second, _ = blocks.layer0.forward_with_state(x[:, 2:], state)
    outputs = torch.cat([first, second], 1)
    outputs.square().sum().backward()
    differences = {"outputs": float((outputs - want).abs().max())}
    for name, parameter in blocks.layer0.named_parameters():
        grad = parameter.grad
        full = grad.full_tensor() if isinstance(grad, DTensor) else grad
        differences[name] = float((full - whole[name]).abs().max())
    return differences


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("dim", ["gates", "hidden"])
def test_a_sliced_layer_hands_its_state_from_chunk_to_chunk(dim: str, cell: str) -> None:
    for differences in run_in_workers(2, in_chunks, dim, cell):
        assert len(differences) == 5
        assert max(differences.values()) < 1e-12, differences


def test_a_layer_that_does_not_divide_is_refused_with_the_arithmetic() -> None:
    spec = spec_of("lstm by gates, 3 workers")
    with pytest.raises(SplitError, match=r"12 hidden units of layer0 are not divisible by 5 workers \(remainder 2\)"):
        plan(RunSpec(**{**spec, "split": {"tensor": 5}}))
    with pytest.raises(SplitError, match="unknown dim 'gate'; did you mean 'gates'"):
        plan(RunSpec(**{**spec, "split": {"tensor": {"size": 3, "cut": {"recurrent": "gate"}}}}))
