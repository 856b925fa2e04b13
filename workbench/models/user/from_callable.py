"""A user's model in Python: a name from which workers load a function or class, or a live object that they get a copy of."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from workbench.errors import SpecError
from workbench.models.user import UserModelOptions
from workbench.sources import live
from workbench.sources.names import attribute_of, named
from workbench.spec.options import spec_error

_FIELD = "model.name"


def UserModel(  # noqa: N802
    build: Any,
    /,
    *,
    loss: Any = None,
    cut_at: Sequence[str] = (),
    tensor_plan: Mapping[str, str] | None = None,
    mixtures: Sequence[str] = (),
    **options: Any,
) -> UserModelOptions:
    """Returns the model of a spec from an ``nn.Module``, or from a function or class that returns one:
    ``RunSpec(model=UserModel(module), dataset="digits")``, ``RunSpec(model=UserModel(build, width=64), dataset="digits")``.

    Each worker loads a function or class of an importable module or of a ``.py`` file by its name. A module, a lambda, a local
    function and what a notebook's cell or a prompt defines are *live*: each run gets a copy of the object and of the user's own
    code that it needs, in a file that only this user can read. A module starts from the values that it has, and stays as it is.

    Args:
        build: The module, or what returns it.
        loss: Callable of (outputs, targets) that returns the loss; by default what the model returns as ``loss``, or else the
            cross-entropy or mean squared error.
        cut_at: Paths of the modules after which the model may be cut; by default found.
        tensor_plan: Path of modules, in which ``*`` is any name → how tensor slicing cuts them; others are cut as found.
        mixtures: Paths of mixtures of experts, in which ``*`` is any name, whose experts may be divided over workers; by default
            recognised.
        options: Keyword arguments of ``build``; none for a module.

    Raises:
        SpecError: it is neither, or it is live and cannot be pickled; one sentence with the attribute and the reason.
    """
    is_module = _is_module(build)
    if not is_module and not callable(build):
        raise SpecError(
            _FIELD, f"requires an nn.Module, or a function or class that returns one, but got an object of type {_kind(build)}"
        )
    if is_module and options:
        raise SpecError("model.options", f"{_kind(build)} is built already and takes no arguments, but got {', '.join(options)}")
    if loss is not None and not callable(loss):
        raise SpecError("model.loss", f"requires a function of (outputs, targets), but got an object of type {_kind(loss)}")
    names = [None if _is_module(each) else named(each) for each in (build, *([] if loss is None else [loss]))]
    if None in names or len({place for place, *_ in filter(None, names)}) > 1:
        names = _live(build, loss)
    (folder, name), *of_loss = filter(None, names)
    of_splits = {"tensor_plan": tensor_plan or {}, "cut_at": tuple(cut_at), "mixtures": tuple(mixtures)}
    edits = {**of_splits, "loss": of_loss[0][1] if of_loss else ""}
    try:
        return UserModelOptions.model_validate({"name": name, "folder": folder, "options": options, **edits})
    except ValidationError as error:
        raise spec_error(error, "model") from None


def _live(build: Any, loss: Any) -> list[tuple[str, str] | None]:
    """Returns the folder with the files of live objects, a model and, if it is not None, a loss, with the name of each."""
    from workbench.sources.pickled_modules import pickled

    values = {"model.name": build} | ({} if loss is None else {"model.loss": loss})
    labels = {field: f"{live.PREFIX}:{attribute_of(value)}" for field, value in values.items()}
    files = {live.FILES[field]: pickled(value, labels[field], field) for field, value in values.items()}
    folder = live.write(labels["model.name"], files)
    return [(folder, label) for label in labels.values()]


def _is_module(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def _kind(value: Any) -> str:
    return type(value).__name__
