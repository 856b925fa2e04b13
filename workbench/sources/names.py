"""Names of a session's objects, by which other processes load them."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench.sources.places import is_installed


def attribute_of(value: Any) -> str:
    """Returns the name of an object of a session, or of its class, as an identifier."""
    while isinstance(value, functools.partial):
        value = value.func
    return re.sub(r"\W", "", getattr(value, "__name__", "") or type(value).__name__)


def named(build: Callable[..., Any]) -> tuple[str, str] | None:
    """Returns the folder of the file, empty for a module of a package, and the name of a callable that workers can load by its
    name; None for another."""
    qualified, module = getattr(build, "__qualname__", ""), str(getattr(build, "__module__", None))
    loaded = sys.modules.get(module)
    found: Any = loaded
    for name in qualified.split("."):
        found = getattr(found, name, None)
    if found is not build:
        return None
    file = getattr(loaded, "__file__", None)
    if module == "__main__" and (not file or not file.endswith(".py")):
        return None
    code = getattr(build, "__code__", None)
    if code is not None and module == "__main__" and Path(code.co_filename).resolve() != Path(str(file)).resolve():
        return None  # defined at the prompt of python -i
    path = Path(file).resolve() if file else None
    if path is None or is_installed(path) or (module != "__main__" and "." in module and not module.startswith("/")):
        return "", f"{module}:{qualified}"
    return str(path.parent), f"{path.name}:{qualified}"
