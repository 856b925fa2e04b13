"""Dropout in the parity check: random masks would make two equal computations differ."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from workbench.models.dropout_modules import SubstituteDropout
from workbench.models.user.module_model import ModuleModel
from workbench.models.user.stage_modules import UserBlocks, WholeModule
from workbench.torch_private.modules import AnyDropout

if TYPE_CHECKING:
    from workbench.models.base import Model


def turn_off_dropout(model: nn.Module) -> list[str]:
    """Turns every dropout of ``model`` off, for good, whose masks may depend on the split: ``nn.Dropout`` and its relatives,
    and the ``dropout`` that ``nn.MultiheadAttention`` and ``nn.LSTM`` have as a number. Everything else stays in train mode.

    Returns:
        The names of the modules that had one.
    """
    names = []
    for name, module in model.named_modules():
        if isinstance(module, AnyDropout | SubstituteDropout):
            module.eval()
            names.append(name)
        elif isinstance(getattr(module, "dropout", None), float) and module.dropout:
            module.dropout = 0.0
            names.append(name)
    return names


_PROBABILITY = 4  # position of scaled_dot_product_attention's dropout_p
_DROPOUTS = {
    function
    for space in (functional, torch)
    for name in ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "feature_dropout")
    if (function := getattr(space, name, None)) is not None
}


class FunctionalDropoutOff(TorchFunctionMode):
    """Disables functional dropout: the functions return their input, and ``scaled_dot_product_attention`` drops nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.is_called = False
        """Whether a function was called that would have dropped something."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function in _DROPOUTS:
            p = args[1] if len(args) > 1 else kwargs.get("p", _HALF)
            self.is_called |= p > 0 and bool(args[2] if len(args) > 2 else kwargs.get("training", kwargs.get("train", True)))
            return args[0] if args else kwargs["input"]
        if function is functional.scaled_dot_product_attention:
            self.is_called |= bool(args[_PROBABILITY] if len(args) > _PROBABILITY else kwargs.get("dropout_p", 0.0))
            args = (*args[:_PROBABILITY], *(0.0 for _ in args[_PROBABILITY:][:1]), *args[_PROBABILITY + 1 :])
            kwargs = {**kwargs, **({"dropout_p": 0.0} if "dropout_p" in kwargs else {})}
        return function(*args, **kwargs)


class FixedDraws(TorchFunctionMode):
    """Replaces what the code of a module draws, as stochastic depth does, by the middle of its distribution.

    Args:
        noted_by: What notes that something was drawn.
    """

    def __init__(self, noted_by: FunctionalDropoutOff) -> None:
        super().__init__()
        self.noted_by = noted_by

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        drawn = function(*args, **kwargs)
        if function not in _MIDDLES:
            return drawn
        self.noted_by.is_called = True
        with torch.no_grad():
            if function is torch.bernoulli:
                return drawn.copy_(args[0] >= _HALF)
            if function is torch.Tensor.bernoulli_:
                p = args[1] if len(args) > 1 else kwargs.get("p", _HALF)
                return drawn.copy_(torch.as_tensor(p) >= _HALF)
            return drawn.fill_(_MIDDLES[function])


_HALF = 0.5
_MIDDLES: dict[Callable[..., Any], float] = {
    torch.rand: _HALF, torch.rand_like: _HALF, torch.randn: 0.0, torch.randn_like: 0.0,
    torch.bernoulli: _HALF, torch.Tensor.bernoulli_: _HALF,
}  # fmt: skip
"""Function that draws → the middle of its distribution; of ``bernoulli``, the likelier value in its place."""


def fix_draws(modules: Iterable[nn.Module], noted_by: FunctionalDropoutOff | None) -> None:
    """Lets the code of users' modules draw nothing at random in their forward passes; does nothing to other modules."""
    if noted_by is None:
        return
    for module in {each for root in modules for each in root.modules()}:
        if isinstance(module, UserBlocks | WholeModule):
            module.surrounding = functools.partial(_fixed_within, module.surrounding, noted_by)


@contextmanager
def _fixed_within(surrounding: Callable[[], AbstractContextManager[Any]], noted_by: FunctionalDropoutOff) -> Iterator[None]:
    states = random.getstate(), np.random.get_state()  # with which a module may choose its layers
    random.seed(0)
    np.random.seed(0)
    try:
        with surrounding(), FixedDraws(noted_by):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@contextmanager
def without_random_draws() -> Iterator[None]:
    """Disables functional dropout, and fixes what the code draws."""
    with FunctionalDropoutOff() as functions, FixedDraws(functions):
        yield


def without_functional_dropout(model: Model[Any]) -> AbstractContextManager[FunctionalDropoutOff | None]:
    """Returns ``FunctionalDropoutOff``. For the workbench's own models, which have no functional dropout, returns a context that
    does nothing, because every call would take longer."""
    if isinstance(model, ModuleModel):
        model.find_structure()  # as it is with dropout: without, what a unit returns may be what it was given
    has_own_code = type(model).__module__.startswith("workbench.models.") and not isinstance(model, ModuleModel)
    return nullcontext() if has_own_code else FunctionalDropoutOff()
