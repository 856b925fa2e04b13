"""Parity of the optimizer as configured: groups, weight decay, betas, momentum and the learning rate of each step.

The parity check takes plain SGD steps, because Adam divides a gradient by its own magnitude and turns the rounding noise of
one that is truly zero into a full step. Once these steps have proven the gradients, the split optimizer takes steps on
gradients that are given, not computed: the same normally distributed numbers in every split, each worker its slice of them.
The one-worker truth is the optimizer's published formula on the whole parameters.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from workbench.plan.optimizer import decays, learning_rate_factor, optimizer_options
from workbench.runtime.build import local
from workbench.runtime.optimizer import make_optimizer, set_learning_rate
from workbench.runtime.parity import Piece, compare, offset, place

if TYPE_CHECKING:
    from workbench.plan.model_summary import ModelSummary
    from workbench.spec.run_spec import Train
    from workbench.strategies.worker_model import WorkerModel


def optimizer_errors(
    train: Train,
    worker: WorkerModel,
    gather: Callable[[list[Piece]], list[Piece]],
    is_reference: bool,
    global_norm_share: float,
    has_own_parameters: bool = False,
) -> dict[str, float]:
    """Returns the error of each parameter after three steps of the optimizer: at the first, the middle and the last timed
    step of the learning-rate schedule. Empty but on the worker that holds the reference.

    Args:
        gather: Collects all workers' pieces on the worker that holds the reference.
        global_norm_share: As in ``compare``.
        has_own_parameters: Whether replicas may hold different parameters by now; all then begin with given ones.
    """
    trained = [(name, parameter) for name, parameter in worker.named_parameters() if parameter.requires_grad]
    for name, parameter in trained if has_own_parameters else ():
        mine = local(parameter)
        mine.copy_(given_gradient(name, parameter.shape, -1)[place(Piece(name, offset(parameter), mine))])
    before = gather(_pieces(trained))
    num_steps = train.num_warmup_steps + train.num_steps
    steps = (0, num_steps // 2, num_steps - 1)
    optimizer = make_optimizer(worker, train)
    for turn, step in enumerate(steps):
        for name, parameter in trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            mine = local(parameter.grad)
            mine.copy_(given_gradient(name, parameter.shape, turn)[place(Piece(name, offset(parameter), mine))])
        if optimizer is not None:
            set_learning_rate(optimizer, train, step)
            optimizer.step()
    after = gather(_pieces(trained))
    if not is_reference:
        return {}
    wanted = {
        f"parameter {name}": _by_formula(train, worker.summary, name, whole, steps)
        for name, whole in _wholes(before, worker.summary).items()
    }
    errors = compare(wanted, after, global_norm_share)
    return {f"{name} after steps of {train.optimizer}": error for name, error in errors.items()}


def _pieces(named: list[tuple[str, nn.Parameter]]) -> list[Piece]:
    return [Piece(f"parameter {name}", offset(parameter), local(parameter).clone()) for name, parameter in named]


def given_gradient(name: str, shape: torch.Size, turn: int) -> Tensor:
    """Returns the gradient that a whole parameter is given at a turn, in fp64: a function of these alone."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{name} {turn}".encode()))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _wholes(pieces: list[Piece], summary: ModelSummary) -> dict[str, Tensor]:
    """Whole parameters by name, in fp64, put together from their pieces."""
    shapes = {parameter.name: parameter.shape for parameter in summary.parameters}
    wholes: dict[str, Tensor] = {}
    for piece in pieces:
        name = piece.name.removeprefix("parameter ")
        wholes.setdefault(name, torch.zeros(shapes[name], dtype=torch.float64))[place(piece)] = piece.values.double()
    return wholes


def _by_formula(train: Train, summary: ModelSummary, name: str, parameter: Tensor, steps: tuple[int, ...]) -> Tensor:
    """SGD with momentum (Sutskever et al. 2013, as torch.optim.SGD writes it), Adam (Kingma and Ba 2015, algorithm 1) or
    AdamW (Loshchilov and Hutter 2019, algorithm 2)."""
    options, p = optimizer_options(train), parameter.clone()
    decay = options["weight_decay"] if decays(train, next(s for s in summary.parameters if s.name == name)) else 0.0
    m, v = torch.zeros_like(p), torch.zeros_like(p)
    for turn, step in enumerate(steps):
        rate, g = train.learning_rate * learning_rate_factor(train, step), given_gradient(name, p.shape, turn)
        if train.optimizer == "adamw":
            p -= rate * decay * p
        else:
            g = g + decay * p
        if "momentum" in options:
            m = options["momentum"] * m + g
            p -= rate * m
            continue
        first, second = options["betas"]
        m = first * m + (1 - first) * g
        v = second * v + (1 - second) * g**2
        p -= rate * (m / (1 - first ** (turn + 1))) / ((v / (1 - second ** (turn + 1))).sqrt() + options["eps"])
    return p
