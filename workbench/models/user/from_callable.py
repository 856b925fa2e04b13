"""A user's model in Python: a function or class becomes the name from which workers load it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from workbench.errors import SpecError
from workbench.models.user import UserModelOptions
from workbench.sources.places import is_installed

_FIELD = "model.name"


def UserModel(build: Callable[..., Any], /, *, cut_at: Sequence[str] = (), **options: Any) -> UserModelOptions:  # noqa: N802
    """Returns the model of a spec from a function or class that returns an ``nn.Module``:
    ``RunSpec(model=UserModel(build, width=64), dataset="digits")``.

    Args:
        build: A function or class of an importable module or of a ``.py`` file, from which each worker loads it by name.
        cut_at: Paths of the modules after which the model may be cut; by default found.
        options: Keyword arguments of ``build``.

    Raises:
        SpecError: workers cannot load it by name: it is a lambda, or defined inside a function or in a notebook's cell.
    """
    folder, name = _name_of(build)
    return UserModelOptions(name=name, folder=folder, options=options, cut_at=tuple(cut_at))


def _name_of(build: Any) -> tuple[str, str]:
    """Returns the folder of the file, empty for a module of a package, and the name of the callable."""
    qualified, module = getattr(build, "__qualname__", ""), getattr(build, "__module__", None)
    if isinstance(build, functools.partial) or not callable(build) or not qualified:
        raise SpecError(
            _FIELD, f"requires a function or class that returns the model, but got an object of type {type(build).__name__}"
        )
    if "<lambda>" in qualified or "<locals>" in qualified:
        what = "a lambda" if "<lambda>" in qualified else f"{build.__name__} is defined inside a function, which"
        raise SpecError(_FIELD, f"{what} has no name from which a worker could load it; define a function in a .py file")
    loaded = sys.modules.get(str(module))
    file = getattr(loaded, "__file__", None)
    if module == "__main__" and (not file or not file.endswith(".py")):
        raise SpecError(
            _FIELD,
            f"{build.__name__} is defined in a notebook's cell or at a prompt, which no worker can load; write it to a .py file",
        )
    path = Path(file).resolve() if file else None
    if path is None or is_installed(path) or (module != "__main__" and "." in str(module) and not str(module).startswith("/")):
        return "", f"{module}:{qualified}"
    return str(path.parent), f"{path.name}:{qualified}"
