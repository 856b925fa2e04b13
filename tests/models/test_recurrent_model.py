"""The recurrent and the residual network: equal to torch's own layers, FLOPs and shapes as their formulas say."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from workbench.models.lstm_modules import Recurrent
from workbench.plan.resolve import plan
from workbench.runtime.build import build_blocks
from workbench.spec import RunSpec

BATCH, SEQUENCE, INPUT, HIDDEN = 3, 7, 5, 6
every_cell = pytest.mark.parametrize("cell", ["lstm", "gru"])


def torchs(layer: Recurrent) -> nn.RNNBase:
    """nn.LSTM or nn.GRU with the same weights, put in torch's order one row at a time."""
    theirs = (nn.LSTM if layer.cell == "lstm" else nn.GRU)(INPUT, HIDDEN, batch_first=True).to(torch.float64)
    for name, mine in zip(theirs._flat_weights_names, layer.parameters(), strict=True):
        with torch.no_grad():
            for unit in range(HIDDEN):
                for gate in range(layer.num_gates):
                    getattr(theirs, name)[gate * HIDDEN + unit] = mine[unit * layer.num_gates + gate]
    return theirs


def rows_in_our_order(theirs: Tensor, num_gates: int) -> Tensor:
    return torch.stack([theirs[gate * HIDDEN + unit] for unit in range(HIDDEN) for gate in range(num_gates)])


@every_cell
def test_a_recurrent_layer_equals_torchs_in_outputs_state_and_gradients(cell: Literal["lstm", "gru"]) -> None:
    torch.manual_seed(0)
    layer = Recurrent(cell, INPUT, HIDDEN).to(torch.float64)
    theirs = torchs(layer)
    x = torch.randn(BATCH, SEQUENCE, INPUT, dtype=torch.float64, requires_grad=True)
    same_x = x.detach().clone().requires_grad_()
    weights = torch.randn(BATCH, SEQUENCE, HIDDEN, dtype=torch.float64)

    outputs, state = layer.forward_with_state(x)
    (outputs * weights).sum().backward()
    want, final = theirs(same_x)
    (want * weights).sum().backward()

    assert torch.equal(layer(x), outputs)
    torch.testing.assert_close(outputs, want)
    for mine, other in zip(state, final if cell == "lstm" else (final,), strict=True):
        torch.testing.assert_close(mine, other[0])
    torch.testing.assert_close(x.grad, same_x.grad)
    for parameter, other in zip(layer.parameters(), theirs.parameters(), strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, rows_in_our_order(other.grad, layer.num_gates))


@every_cell
def test_a_sequence_in_two_chunks_equals_it_in_one(cell: Literal["lstm", "gru"]) -> None:
    torch.manual_seed(0)
    layer = Recurrent(cell, INPUT, HIDDEN).to(torch.float64)
    x = torch.randn(BATCH, SEQUENCE, INPUT, dtype=torch.float64)

    whole = layer(x)
    whole_gradients = torch.autograd.grad(whole.square().sum(), tuple(layer.parameters()))
    first, state = layer.forward_with_state(x[:, :3])
    second, _ = layer.forward_with_state(x[:, 3:], state)
    chunked = torch.cat([first, second], dim=1)
    gradients = torch.autograd.grad(chunked.square().sum(), tuple(layer.parameters()))

    torch.testing.assert_close(chunked, whole)
    torch.testing.assert_close(gradients, whole_gradients)


MODELS: dict[str, dict[str, Any]] = {
    "cnn": {"model": {"name": "cnn", "widths": [8, 12], "num_groups": 4}, "dataset": {"name": "digit_images", "scale": 2}},
    "cnn, batch norm": {"model": {"name": "cnn", "norm": "batch", "blocks_per_stage": 1}, "dataset": "digit_images"},
    "lstm": {"model": {"name": "lstm", "hidden_dim": 8}, "dataset": {"name": "text", "sequence_length": 9}},
    "gru": {"model": {"name": "lstm", "cell": "gru", "hidden_dim": 8}, "dataset": {"name": "text", "sequence_length": 9}},
    "lstm of a series": {"model": {"name": "lstm", "hidden_dim": 8}, "dataset": {"name": "sunspots", "length": 9}},
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_flops_and_shapes_of_every_block_are_the_formulas(name: str) -> None:
    planned = plan(RunSpec(**MODELS[name]))
    summary, data = planned.full_model, planned.dataset.summary()
    # In fp64 recurrent layers are made of plain matrix products, which the counter sees; the fused kernel hides them.
    blocks = build_blocks(planned, (b.name for b in summary.blocks), torch.float64)
    x = torch.randint(9, (2, *data.input_shape)) if data.kind == "tokens" else torch.randn(2, *data.input_shape).double()

    for block in summary.blocks:
        with FlopCounterMode(display=False) as counter:
            x = blocks.get_submodule(block.name)(x)
        assert counter.get_total_flops() == 2 * block.forward_flops, block.name
        assert tuple(x.shape[1:]) == block.output_shape, block.name


@pytest.mark.parametrize(
    "name", ["gru", *(pytest.param(name, marks=pytest.mark.slow) for name in ("cnn, batch norm", "lstm of a series"))]
)
def test_a_few_steps_lower_the_loss(name: str) -> None:
    planned = plan(RunSpec(**MODELS[name]))
    blocks = build_blocks(planned, (b.name for b in planned.full_model.blocks), torch.float32)
    import numpy as np

    inputs, targets = map(torch.from_numpy, planned.dataset.load().batch(np.arange(16)))
    optimizer = torch.optim.AdamW(blocks.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = planned.model.loss(blocks(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    assert losses[-1] < 0.8 * losses[0]
