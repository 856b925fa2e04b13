"""Convolutions cut by channels or rows: halos exact for every shape, a whole net equal to one worker, bytes as by formula."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.functional import conv2d

from tests.helpers import cases
from workbench.errors import SplitError
from workbench.plan.resolve import plan
from workbench.runtime.build import build_blocks
from workbench.spec import RunSpec
from workbench.strategies.tensor.halo_exchange import exchange_halos
from workbench.strategies.tensor.row_layers import RowStem
from workbench.strategies.tensor.row_split import RowSplit, shares
from workbench.strategies.tensor.slicings import slicing_of
from workbench.testing.workers import run_in_workers

# (height, kernel, stride, padding): every combination of small ones that gives each of three workers an output row.
SHAPES = [
    shape
    for shape in itertools.product((3, 5, 8, 11), (1, 2, 3, 5), (1, 2, 3), (0, 1, 2, 3))
    if (shape[0] + 2 * shape[3] - shape[1]) // shape[2] + 1 >= 3 and shape[1] <= shape[0] + 2 * shape[3]
]


def exchange(rank: int, recorder: Any, control: Any, size: int) -> list[str]:
    """What differs between a convolution by rows and conv2d, over all shapes; and between sent and expected bytes."""
    mesh, wrong = init_device_mesh("cpu", (size,)), []
    for number, (height, kernel, stride, padding) in enumerate(SHAPES):
        torch.manual_seed(number)
        split = RowSplit(height, kernel, stride, padding, size)
        x, weight, bias = (torch.randn(*s, dtype=torch.float64) for s in ((2, 3, height, 7), (4, 3, kernel, kernel), (4,)))
        whole = [t.clone().requires_grad_() for t in (x, weight, bias)]
        want = conv2d(*whole, stride, padding)
        upstream = torch.randn(want.shape, dtype=torch.float64)
        want.backward(upstream)
        own, outputs = split.inputs[rank], split.outputs[rank]
        mine = [t.clone().requires_grad_() for t in (x[:, :, own.start : own.stop], weight, bias)]
        recorder.operations.clear()
        recorder.tracing = True
        with recorder.span("forward"):
            got = conv2d(exchange_halos(mine[0], split, mesh), mine[1], mine[2], stride, (0, padding))
        got.backward(upstream[:, :, outputs.start : outputs.stop])
        recorder.tracing = False
        for parameter in mine[1:]:
            torch.distributed.all_reduce(parameter.grad)
        layer = nn.Conv2d(3, 4, kernel, stride, padding, bias=False).to(torch.float64)
        layer.weight.data.copy_(weight)
        stem = RowStem(layer, split, mesh)(x) + bias[:, None, None]
        pairs = {
            "output": (got, want[:, :, outputs.start : outputs.stop]),
            "output of the stem": (stem, want[:, :, outputs.start : outputs.stop]),
            "gradient of the input": (mine[0].grad, whole[0].grad[:, :, own.start : own.stop]),
            "gradient of the weight": (mine[1].grad, whole[1].grad),
            "gradient of the bias": (mine[2].grad, whole[2].grad),
        }
        wrong += [f"{name} of {split}" for name, (a, b) in pairs.items() if not torch.allclose(a, b, rtol=0, atol=1e-12)]
        sent = Counter((o.phase, o.payload_bytes) for o in recorder.operations if o.operation == "send")
        row = 2 * 3 * 7 * 8
        expected = Counter(("forward", len(r) * row) for (owner, _), r in split.halos().items() if owner == rank)
        expected += Counter(("backward", len(r) * row) for (_, worker), r in split.halos().items() if worker == rank)
        wrong += [f"sends of {split}"] if sent != expected else []
    return wrong


@pytest.mark.parametrize("size", [2, 3])
def test_a_convolution_by_rows_equals_conv2d_whatever_the_shape(size: int) -> None:
    assert len(SHAPES) > 80
    assert any(RowSplit(*shape, size).window(0).stop <= 0 for shape in SHAPES), "an output made of padding alone"
    if size == 3:
        assert any((0, 2) in RowSplit(*shape, size).halos() for shape in SHAPES), "a kernel that reaches past the neighbour"

    for wrong in run_in_workers(size, exchange, size):
        assert not wrong


def test_shares_cover_all_rows_once_and_differ_by_at_most_one() -> None:
    for height, size in itertools.product(range(1, 20), (1, 2, 3, 4)):
        parts = shares(height, size)
        assert [row for part in parts for row in part] == list(range(height))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def running_statistics(rank: int, recorder: Any, control: Any, dim: str) -> list[float]:
    """Differences of a sliced stem's and residual block's running statistics from the whole ones', after two batches."""
    mesh = init_device_mesh("cpu", (2,))
    planned = plan(RunSpec(**spec_of(dim, 2, "batch")))
    names = [b.name for b in planned.full_model.blocks]
    whole, split = (build_blocks(planned, names, torch.float64) for _ in range(2))
    for group in planned.full_model.groups:
        slicing_of(group)(group, dim, 2).apply(split, mesh)
    for seed in range(2):
        torch.manual_seed(seed)
        x = torch.randn(4, *planned.dataset.summary().input_shape, dtype=torch.float64)
        torch.testing.assert_close(whole(x), split(x))
    whole.eval()
    split.eval()
    torch.testing.assert_close(whole(x), split(x))
    wanted, differences = dict(whole.named_buffers()), []
    for name, buffer in split.named_buffers():
        want = wanted[name]
        if buffer.shape != want.shape:  # a slice of the channels
            want = want.chunk(2)[rank]
        differences.append(float((buffer - want).abs().max()))
    return differences


@pytest.mark.parametrize("dim", ["channels", "rows"])
def test_running_statistics_and_evaluation_are_those_of_one_worker(dim: str) -> None:
    for differences in run_in_workers(2, running_statistics, dim):
        assert len(differences) >= 10
        assert max(differences) < 1e-12


NORMS = {"group": {"norm": "group", "num_groups": 6}, "batch": {"norm": "batch"}}
DIMS = ["channels", "output_channels", "input_channels", "rows"]
SIZES = [(dim, 2) for dim in DIMS] + [("channels", 3), ("rows", 3)]
TRAIN = {"num_steps": 1, "num_warmup_steps": 0, "global_batch_size": 6}


def spec_of(dim: str, size: int, norm: str, scale: int = 2) -> dict[str, Any]:
    return {
        "model": {"name": "cnn", "widths": [6, 12], "blocks_per_stage": 2, **NORMS[norm]},
        "dataset": {"name": "digit_images", "scale": scale},
        "split": {"tensor": {"size": size, "cut": {"convolution": dim}}},
        "train": TRAIN,
    }


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("dim", "size"), SIZES)
def test_a_sliced_trunk_equals_one_worker_and_its_formulas(dim: str, size: int, norm: str) -> None:
    cases.assert_split_as_by_formula(spec_of(dim, size, norm))


@pytest.mark.parametrize(
    ("dim", "size", "scale", "arithmetic"),
    [
        ("channels", 4, 2, r"6 output channels of layer0.first are not divisible by 4 workers \(remainder 2\)"),
        ("input_channels", 5, 2, r"6 input channels of layer0.first are not divisible by 5 workers \(remainder 1\)"),
        ("rows", 5, 1, "layer2.first has 4 rows, too few for 5 workers"),
    ],
)
def test_a_trunk_that_does_not_divide_is_refused_with_the_arithmetic(dim: str, size: int, scale: int, arithmetic: str) -> None:
    with pytest.raises(SplitError, match=arithmetic):
        plan(RunSpec(**spec_of(dim, size, "group", scale)))


def test_a_slice_must_hold_whole_norm_groups() -> None:
    spec = spec_of("channels", 2, "group")
    with pytest.raises(SplitError, match=r"3 norm groups of layer0\.first_norm are not divisible by 2 workers \(remainder 1\)"):
        plan(RunSpec(**{**spec, "model": {**spec["model"], "num_groups": 3}}))
