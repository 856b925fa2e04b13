"""Parity of the optimizer as configured: groups, weight decay, betas, momentum and the learning rate of each step.

The parity check takes plain SGD steps, because Adam divides a gradient by its own magnitude and turns the rounding noise of
one that is truly zero into a full step. Once these steps have verified the gradients, the split optimizer takes steps on
fixed gradients: the same normally distributed numbers in every split, of which each worker takes its slice. The reference is
the published formula of the optimizer on the full parameters, or the user's own optimizer of these.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from workbench.plan.optimizer import decays, learning_rate_factor, optimizer_options
from workbench.registry import is_source
from workbench.runtime.build import local
from workbench.runtime.optimizer import make_optimizer, set_learning_rate
from workbench.runtime.parity.errors import compare
from workbench.runtime.parity.local_tensors import LocalTensor, local_parameters, offset
from workbench.runtime.user_optimizer import user_optimizer

if TYPE_CHECKING:
    from workbench.plan.model_summary import ModelSummary
    from workbench.spec.train import Train
    from workbench.strategies.worker_model import WorkerModel


def optimizer_errors(
    train: Train,
    worker: WorkerModel,
    gather: Callable[[list[LocalTensor]], list[LocalTensor]],
    is_reference: bool,
    global_norm_share: float,
    has_local_parameters: bool = False,
) -> dict[str, float]:
    """Returns the error of each parameter after three steps of the optimizer: at the first, the middle and the last timed
    step of the learning-rate schedule. Empty but on the worker that holds the reference.

    Args:
        gather: Collects all workers' local tensors on the worker that holds the reference.
        global_norm_share: As in ``compare``.
        has_local_parameters: Whether replicas may hold different parameters by now; all then start from fixed ones.
    """
    trained = [(name, parameter) for name, parameter in worker.named_parameters() if parameter.requires_grad]
    for name, parameter in trained if has_local_parameters else ():
        values = local(parameter)
        values.copy_(fixed_gradient(name, parameter.shape, -1)[LocalTensor(name, offset(parameter), values).slices])
    initial = gather(local_parameters(trained))
    num_steps = train.num_warmup_steps + train.num_steps
    steps = (0, num_steps // 2, num_steps - 1)
    optimizer = make_optimizer(worker, train)
    for turn, step in enumerate(steps):
        for name, parameter in trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            values = local(parameter.grad)
            values.copy_(fixed_gradient(name, parameter.shape, turn)[LocalTensor(name, offset(parameter), values).slices])
        if optimizer is not None:
            set_learning_rate(optimizer, train, step)
            optimizer.step()
    updated = gather(local_parameters(trained))
    if not is_reference:
        return {}
    parameters = _full_parameters(initial, worker.full_model)
    updates = (
        _by_callable(train, parameters, steps)
        if is_source(train.optimizer)
        else {name: _by_formula(train, worker.full_model, name, parameter, steps) for name, parameter in parameters.items()}
    )
    expected = {f"parameter {name}": values for name, values in updates.items()}
    errors = compare(expected, updated, global_norm_share)
    return {f"{name} after steps of {train.optimizer}": error for name, error in errors.items()}


def fixed_gradient(name: str, shape: torch.Size, turn: int) -> Tensor:
    """Returns the fixed gradient of a full parameter at a turn, in fp64; it depends on the arguments only."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{name} {turn}".encode()))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _full_parameters(local_tensors: list[LocalTensor], summary: ModelSummary) -> dict[str, Tensor]:
    """Assembles the full parameters from their parts, by name, in fp64."""
    shapes = {parameter.name: parameter.shape for parameter in summary.parameters}
    parameters: dict[str, Tensor] = {}
    for part in local_tensors:
        name = part.name.removeprefix("parameter ")
        parameters.setdefault(name, torch.zeros(shapes[name], dtype=torch.float64))[part.slices] = part.values.double()
    return parameters


def _by_callable(train: Train, parameters: dict[str, Tensor], steps: tuple[int, ...]) -> dict[str, Tensor]:
    """Computes the steps of a user's own optimizer on the full parameters."""
    named = {name: torch.nn.Parameter(values.clone()) for name, values in parameters.items()}
    optimizer = user_optimizer(train, list(named.items()))
    for turn, step in enumerate(steps):
        for name, parameter in named.items():
            parameter.grad = fixed_gradient(name, parameter.shape, turn)
        set_learning_rate(optimizer, train, step)
        optimizer.step()
    return {name: parameter.detach() for name, parameter in named.items()}


def _by_formula(train: Train, summary: ModelSummary, name: str, parameter: Tensor, steps: tuple[int, ...]) -> Tensor:
    """Computes the steps of SGD with momentum (Sutskever et al. 2013, in the form of torch.optim.SGD), Adam (Kingma and Ba 2015,
    algorithm 1) or AdamW (Loshchilov and Hutter 2019, algorithm 2)."""
    options, p = optimizer_options(train), parameter.clone()
    decay = options["weight_decay"] if decays(train, next(s for s in summary.parameters if s.name == name)) else 0.0
    m, v = torch.zeros_like(p), torch.zeros_like(p)
    for turn, step in enumerate(steps):
        rate, g = train.learning_rate * learning_rate_factor(train, step), fixed_gradient(name, p.shape, turn)
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
