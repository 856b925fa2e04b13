"""``%%workbench_model name``: writes the model that a cell defines to a file, so that the processes of a run can build it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from workbench.api.plugins import MODELS, announce
from workbench.errors import UsageError

DIRECTORY = Path("workbench_models")


def write_model(name: str, code: str, directory: Path = DIRECTORY) -> Path:
    """Writes the code to a file and registers its model in this process and in all runs started from now on.

    Raises:
        UsageError: the name is invalid or belongs to another model, or the code registers no model of this name.
        Exception: whatever the code raises.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UsageError(f"%%workbench_model takes a name of lowercase letters, digits and _, but got {name!r}")
    path = directory / f"{name}.py"
    if name in MODELS.names() and Path(_file_of(name)) != path.resolve():
        raise UsageError(f"model {name!r} already exists in {_file_of(name)}; choose another name")
    directory.mkdir(parents=True, exist_ok=True)
    path.write_text(code, encoding="utf-8")
    announce(path)
    if name not in MODELS.names():
        raise UsageError(f'the cell defines no model named {name!r}: decorate its class with @model("{name}")')
    return path


def enable() -> None:
    """Registers the cell magic if this process is that of a notebook or an IPython shell."""
    from IPython.core.getipython import get_ipython

    if shell := get_ipython():
        shell.register_magic_function(_magic, "cell", "workbench_model")  # type: ignore[arg-type]


def _magic(line: str, cell: str) -> None:
    path = write_model(line.strip(), cell)
    print(f"Registered model {line.strip()!r}: RunSpec(model={line.strip()!r}). Its code is in {path}.")


def _file_of(name: str) -> str:
    import sys

    plugin: Any = MODELS.get(name)
    return str(sys.modules[plugin.__module__].__file__)
