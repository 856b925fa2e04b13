"""Builds a user's own optimizer, and finds its state by a step on zeros."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from workbench.errors import SpecError
from workbench.optimizers.user import Found, optimizer_source
from workbench.sources.failure import failure_text
from workbench.sources.source import Source, built
from workbench.spec.train import Train

_MOST_ELEMENTS = 100_000_000
"""Elements of parameters up to which the state is found."""


def user_optimizer(train: Train, named_parameters: Sequence[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
    """Returns the optimizer that the spec's callable builds of these parameters.

    Raises:
        SpecError: it fails or returns another object; the message has the user's own file and line.
    """
    source, options = optimizer_source(train), dict(train.optimizer_options)
    if "lr" not in options and _takes_lr(source.load()):
        options["lr"] = train.learning_rate
    optimizer = built(source, options, "train.optimizer_options", list(named_parameters))
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise SpecError(
            source.field, f"{source.label} must return a torch.optim.Optimizer, but returned a {type(optimizer).__name__}"
        )
    return optimizer


def parts_of(
    optimizer: torch.optim.Optimizer,
) -> tuple[Callable[..., torch.optim.Optimizer], list[dict[str, Any]], dict[str, Any]]:
    """Returns the arguments of ``WorkerModel.make_optimizer``: what returns the optimizer of its parameter groups, or one of the
    same class of a part of them; the groups; and the keyword arguments of the class."""
    whole = _parameters(optimizer.param_groups)

    def make(groups: list[dict[str, Any]], **arguments: Any) -> torch.optim.Optimizer:
        return optimizer if _parameters(groups) == whole else type(optimizer)(groups, **arguments)

    return make, _groups(optimizer), _arguments(optimizer)


def found_in(train: Train, parameters: Sequence[tuple[str, tuple[int, ...]]]) -> Found:
    """Returns what is known of an optimizer after a step on parameters and gradients of zeros.

    Raises:
        SpecError: it cannot be built, or takes no step.
    """
    source = optimizer_source(train)
    is_small = sum(torch.Size(shape).numel() for _, shape in parameters) <= _MOST_ELEMENTS
    device = "cpu" if is_small else "meta"
    named = [(name, nn.Parameter(torch.zeros(shape, device=device))) for name, shape in parameters]
    optimizer = user_optimizer(train, named)
    _check_parameters(optimizer, {id(parameter) for _, parameter in named}, source)
    has_rate = all("lr" in group for group in optimizer.param_groups)
    if not is_small:
        return Found(None, has_rate, _can_shard(optimizer))
    for _, parameter in named:
        parameter.grad = torch.zeros_like(parameter)
    try:
        with source.imports():
            optimizer.step()
    except Exception as error:
        doing = f"a step of the optimizer that {source.label} returns"
        raise SpecError(source.field, failure_text(error, doing, source.folder, source.path)) from error
    return Found(_state(optimizer, named), has_rate, _can_shard(optimizer))


def _state(optimizer: torch.optim.Optimizer, named: Sequence[tuple[str, nn.Parameter]]) -> dict[str, tuple[float, int]] | None:
    """Returns the elements of state per element and the bytes of scalars of each updated parameter; None if a state has another
    shape."""
    state = dict[str, tuple[float, int]]()
    for name, parameter in named:
        tensors = [value for value in optimizer.state.get(parameter, {}).values() if isinstance(value, Tensor)]
        like = [tensor for tensor in tensors if tensor.shape == parameter.shape and tensor.dim()]
        others = [tensor for tensor in tensors if tensor.shape != parameter.shape or not tensor.dim()]
        if any(tensor.dim() for tensor in others):
            return None
        state[name] = sum(tensor.nbytes for tensor in like) / parameter.nbytes, sum(tensor.nbytes for tensor in others)
    return state


def _check_parameters(optimizer: torch.optim.Optimizer, expected: set[int], source: Source) -> None:
    if _parameters(optimizer.param_groups) - expected:
        raise SpecError(
            source.field, f"the optimizer that {source.label} returns has parameters of its own; use those that it is given"
        )


def _takes_lr(target: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return False
    return "lr" in parameters


def _parameters(groups: Iterable[dict[str, Any]]) -> set[int]:
    return {id(parameter) for group in groups for parameter in group["params"]}


def _groups(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Returns the parameter groups without the names, of which torch takes either all or none."""
    return [{key: value for key, value in group.items() if key != "param_names"} for group in optimizer.param_groups]


def _arguments(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Returns the arguments of the optimizer's class among its defaults."""
    taken = inspect.signature(type(optimizer)).parameters
    return {name: value for name, value in optimizer.defaults.items() if name in taken}


def _can_shard(optimizer: torch.optim.Optimizer) -> bool:
    try:
        type(optimizer)(_groups(optimizer), **_arguments(optimizer))
    except Exception:  # noqa: BLE001 - a user's class may raise anything
        return False
    return True
