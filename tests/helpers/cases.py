"""What tests of single strategies run inside workers, beside the suite's own cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from workbench.plan.resolve import plan
from workbench.registry import announce
from workbench.runtime.build import DTYPES, build_worker, make_mesh
from workbench.runtime.tracing.recorder import Recorder
from workbench.spec import RunSpec
from workbench.testing.cases import parity, parity_and_training, training
from workbench.testing.conformance import run_case

__all__ = [
    "apply_beside_another_module",
    "assert_split_as_by_formula",
    "cross_entropy_of_slices",
    "parity",
    "parity_and_training",
    "split_attention",
    "training",
    "with_plugin",
]


def with_plugin(
    rank: int, recorder: Recorder, control: Any, path: str, spec: dict[str, Any]
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Parity and a short training run of a spec that names the plugins of a file."""
    announce(Path(path))
    return parity_and_training(rank, recorder, control, spec)


def assert_split_as_by_formula(spec: dict[str, Any]) -> None:
    """Computes what one worker computes; communicates the bytes, in as many operations, and holds the parameters, of its
    formulas. Operations are not counted where torch averages gradients in buckets of its own or cut layers take a batch in
    pieces, of which the formulas give the sum."""
    outcome = run_case(spec)
    assert not outcome.parity_mistakes()
    assert not outcome.communication_mistakes()
    axes, has_pieces = outcome.planned.mesh.axes, outcome.planned.rank_view(0).num_microbatches > 1
    averages = outcome.planned.spec.mode == "train" and bool(outcome.planned.mesh.replica_axes)
    if not averages and not ("tensor" in axes and has_pieces):
        assert not outcome.operation_mistakes()
    assert not outcome.parameter_mistakes()


def split_attention(rank: int, recorder: Recorder, control: Any, options: dict[str, Any]) -> dict[str, float]:
    """Largest differences between this worker's part and whole causal attention with two q heads a key/value head."""
    from workbench.strategies.context import ContextOptions, ContextStrategy
    from workbench.strategies.context.split_attention import split_attention as product_of

    strategy, length = ContextStrategy(ContextOptions(**options)), 24
    ranges = strategy.position_ranges(length)
    mine = [position for part in ranges[rank] for position in part]
    torch.manual_seed(0)
    q, gradient = torch.randn(2, 2, 4, length, 8, dtype=torch.float64)
    k, v = torch.randn(2, 2, 2, length, 8, dtype=torch.float64)
    whole = [t.clone().requires_grad_() for t in (q, k, v)]
    part = [t[:, :, mine].requires_grad_() for t in (q, k, v)]
    wanted = torch.nn.functional.scaled_dot_product_attention(*whole, is_causal=True, enable_gqa=True)
    found = product_of(options["attention"], ranges, dist.group.WORLD)(*part)
    wanted.backward(gradient)
    found.backward(gradient[:, :, mine])
    pairs = {"values": (wanted, found)}
    pairs |= {f"gradient of {name}": (w.grad, f.grad) for name, w, f in zip("qkv", whole, part, strict=True)}
    return {name: float((w[:, :, mine] - f).abs().max()) for name, (w, f) in pairs.items()}


def apply_beside_another_module(rank: int, recorder: Recorder, control: Any, spec: dict[str, Any]) -> dict[str, Any]:
    """Applies the split to blocks one of which is a module whose attributes merely have the names that the split sets."""
    planned = plan(RunSpec(**spec))
    mesh = make_mesh(planned, "cpu", recorder)
    assert mesh is not None
    worker = build_worker(planned, rank, mesh, recorder, torch.device("cpu"), torch.float32)
    attributes = {"product": "a product", "attention_fn": "a function", "positions": "some positions"}
    other = torch.nn.Identity()
    vars(other).update(attributes)
    worker.blocks.add_module("other", other)
    for strategy in planned.strategies:
        strategy.apply(worker, mesh)
    return {name: getattr(other, name) for name in attributes}


def cross_entropy_of_slices(rank: int, recorder: Recorder, control: Any, dtype: str, scale: float) -> dict[str, float]:
    """Relative differences of the loss of slices from torch's loss of the whole, in fp64, and of its gradient's slice."""
    from torch.distributed.device_mesh import init_device_mesh

    from workbench.strategies.tensor.vocab_parallel_loss import cross_entropy_of_slices as of_slices

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    torch.manual_seed(0)
    scores, targets = (scale * torch.randn(3, 5, 12)).to(DTYPES[dtype]), torch.randint(12, (3, 5))
    whole = scores.double().clone().requires_grad_()
    wanted = torch.nn.functional.cross_entropy(whole.flatten(0, 1), targets.flatten())
    mine = scores.chunk(mesh.size(), -1)[rank].clone().requires_grad_()
    found = of_slices(mine, targets, mesh)
    wanted.backward()
    found.backward()
    pairs = {"loss": (wanted.detach(), found.detach()), "gradient": (whole.grad.chunk(mesh.size(), -1)[rank], mine.grad)}
    return {name: float((w - f).norm() / w.norm()) for name, (w, f) in pairs.items()}
