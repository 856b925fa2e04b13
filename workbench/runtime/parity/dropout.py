"""Dropout in the parity check: random masks would make two equal computations differ."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from workbench.models.dropout_modules import SubstituteDropout
from workbench.models.user.module_model import ModuleModel
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
            self.is_called |= bool(args[2] if len(args) > 2 else kwargs.get("training", kwargs.get("train", True)))
            return args[0] if args else kwargs["input"]
        if function is functional.scaled_dot_product_attention:
            self.is_called |= bool(args[_PROBABILITY] if len(args) > _PROBABILITY else kwargs.get("dropout_p", 0.0))
            args = (*args[:_PROBABILITY], *(0.0 for _ in args[_PROBABILITY:][:1]), *args[_PROBABILITY + 1 :])
            kwargs = {**kwargs, **({"dropout_p": 0.0} if "dropout_p" in kwargs else {})}
        return function(*args, **kwargs)


def without_functional_dropout(model: Model[Any]) -> AbstractContextManager[FunctionalDropoutOff | None]:
    """Returns ``FunctionalDropoutOff``. For the workbench's own models, which have no functional dropout, returns a context that
    does nothing, because every call would take longer."""
    if isinstance(model, ModuleModel):
        model.find_structure()  # as it is with dropout: without, what a unit returns may be what it was given
    has_own_code = type(model).__module__.startswith("workbench.models.") and not isinstance(model, ModuleModel)
    return nullcontext() if has_own_code else FunctionalDropoutOff()
