"""A user's optimizer in Python: a name from which workers load a callable, or a live one that they get a copy of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workbench.code_parts import OPTIMIZER
from workbench.errors import SpecError
from workbench.sources import live
from workbench.sources.names import attribute_of, named
from workbench.spec.train import OptimizerSource


def UserOptimizer(build: Callable[..., Any], /, **options: Any) -> OptimizerSource:  # noqa: N802
    """Returns the optimizer of a spec from a class of optimizers, or from a function that returns one:
    ``RunSpec(train={"optimizer": UserOptimizer(torch.optim.RMSprop, alpha=0.9)})``.

    Workers load it by its name, or, if it is *live*, get a copy, as ``UserModel`` explains.

    Args:
        build: Callable of pairs of name and parameter, as a list. The names are those of the unsplit model.
        options: Its keyword arguments. ``train.learning_rate`` is its argument ``lr``, if it takes one and this has none.

    Raises:
        SpecError: it is no callable, or it is live and cannot be pickled.
    """
    if not callable(build):
        raise SpecError(OPTIMIZER.path, f"requires a function or class, but got an object of type {type(build).__name__}")
    folder, name = named(build) or _live(build)
    return OptimizerSource(name, folder, options)


def _live(build: Callable[..., Any]) -> tuple[str, str]:
    from workbench.sources.pickled_modules import pickled

    label = f"{live.PREFIX}:{attribute_of(build)}"
    return live.write(label, {live.FILES[OPTIMIZER.path]: pickled(build, label, OPTIMIZER.path)}), label
