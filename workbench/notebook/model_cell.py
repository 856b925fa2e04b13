"""``%%workbench_model name``: makes what a cell defines, a class or function, the model of specs under this name."""

from __future__ import annotations

import ast
from typing import Any

from workbench.api.specs import UserModel, parse_value
from workbench.errors import UsageError


def enable() -> None:
    """Registers the cell magic if this process is that of a notebook or an IPython shell."""
    from IPython.core.getipython import get_ipython

    if shell := get_ipython():
        shell.register_magic_function(_magic, "cell", "workbench_model")  # type: ignore[arg-type]


def _magic(line: str, cell: str) -> None:
    from IPython.core.getipython import get_ipython

    define(line, cell, get_ipython())


def define(line: str, cell: str, shell: Any) -> None:
    """Executes a cell, and assigns the model of its last class or function to a variable.

    Args:
        line: The name of the variable, and arguments of the class or function: ``net width=64``.
        cell: The code.
        shell: The IPython shell in whose namespace it is executed.

    Raises:
        UsageError: the line is not of this form, or the cell defines no class or function, or the name itself.
        SpecError: what it defines cannot be the model of a run.
        Exception: whatever the code raises.
    """
    name, *arguments = line.split() or [""]
    options = dict(argument.partition("=")[::2] for argument in arguments)
    if not all(map(str.isidentifier, (name, *options))) or not all(options.values()):
        raise UsageError(f"%%workbench_model takes a name and arguments, such as net width=64, but got {line!r}")
    tree = ast.parse(cell)
    defined = [node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    if not defined:
        raise UsageError("the cell defines no class and no function that returns the model")
    if name in defined:
        raise UsageError(f"the cell defines {name!r} itself; choose another name for the model")
    exec(compile(tree, shell.compile.cache(cell), "exec"), shell.user_ns)
    model = UserModel(shell.user_ns[defined[-1]], **{key: parse_value(value) for key, value in options.items()})
    shell.user_ns[name] = model
    print(f"{name} is the model {model.name}: RunSpec(model={name}, dataset=…), compare_splits({name}, batch).")
