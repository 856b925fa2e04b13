"""Pickles a live module or callable, with the code that it needs from a session, and says what prevents it."""

from __future__ import annotations

import functools
import inspect
import io
import itertools
import pickle
import sys
from collections import ChainMap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FunctionType, ModuleType, SimpleNamespace
from typing import Any

import cloudpickle
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from workbench.errors import SpecError
from workbench.sources.places import is_installed

_INSIDE = {
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "FullyShardedDataParallel": "module",
    "OptimizedModule": "_orig_mod",
}
"""Class of a wrapper → its attribute with the module that the user wrote."""
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_PACKAGES = {"site-packages", "dist-packages"}


def pickled(value: Any, label: str, field: str) -> bytes:
    """Returns a module or callable in the format of ``torch.save``. The user's own classes and functions, those of ``__main__``
    and of modules that are not installed, are pickled with their code; tensors may be on any device.

    Raises:
        SpecError: it is split or compiled already, has hooks or no values, or something in it cannot be pickled; one sentence
            with the path of the attribute.
    """
    if isinstance(value, nn.Module):
        _check(value, label, field)
    contents = io.BytesIO()
    with _own_code_by_value():
        try:
            torch.save(value, contents, pickle_module=_PICKLING, pickle_protocol=pickle.HIGHEST_PROTOCOL)
        except Exception as error:  # noqa: BLE001 - pickling calls the user's code
            path, reason = _blame(value, "", error, set())
            what = f"{path.lstrip('.')} of {label}" if path else label
            kind = f"{type(reason).__name__}: {next(iter(str(reason).splitlines()), 'no message').removesuffix(' See:')}"
            raise SpecError(
                field, f"{what} cannot be pickled ({kind}); remove it, or give a function of a .py file that builds the model"
            ) from None
    return contents.getvalue()


def code_of_file(make: Callable[..., CodeType], arguments: tuple[Any, ...], file: str) -> CodeType:
    """Returns code while it is loaded, as that of a file."""
    return make(*arguments).replace(co_filename=file)


def _reduced(code: CodeType) -> tuple[Any, ...]:
    """Reduces code together with its file, which cloudpickle forgets and which messages name."""
    return code_of_file, (*cloudpickle.Pickler.dispatch_table[CodeType](code), code.co_filename)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # untyped
    dispatch_table = ChainMap({CodeType: _reduced}, cloudpickle.Pickler.dispatch_table)


_PICKLING = SimpleNamespace(__name__="cloudpickle", Pickler=_Pickler)
"""What ``torch.save`` needs of a pickle module."""


def _check(root: nn.Module, label: str, field: str) -> None:
    for path, module in root.named_modules():
        what = f"{path} of {label}" if path else label
        names = [kind.__name__ for kind in type(module).__mro__]
        if wrapper := next((name for name in names if name in _INSIDE), None):
            inside = ".".join(filter(None, (path, _INSIDE[wrapper])))
            raise SpecError(
                field, f"{what} is a {wrapper}; give the module inside it, .{inside}: the workbench applies the split"
            )
        if "FSDPModule" in names:
            raise SpecError(
                field, f"{what} is sharded by fully_shard; give the module before that: the workbench applies the split"
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise SpecError(field, f"{what} is a ScriptModule; give the module that it was made of")
        hooks = [hook for name in _HOOKS for hook in getattr(module, name).values() if not _is_of_torch(hook)]
        if hooks:
            name = getattr(hooks[0], "__qualname__", type(hooks[0]).__qualname__)
            raise SpecError(field, f"{what} has the hook {name}; remove it, or put what it computes into forward")
    for path, tensor in (*root.named_parameters(), *root.named_buffers()):
        if is_lazy(tensor):
            raise SpecError(field, f"{path} of {label} is lazy and has no values yet; call the module once on a batch")
        if tensor.is_meta:
            raise SpecError(field, f"{path} of {label} is on the meta device and has no values; give a function that builds it")
        if type(tensor).__name__ == "DTensor":
            raise SpecError(field, f"{path} of {label} is a DTensor, a shard; give the module before it was sharded")
        if getattr(tensor, "_backward_hooks", None):
            raise SpecError(field, f"{path} of {label} has a hook (register_hook); remove it")


def _is_of_torch(hook: Any) -> bool:
    """Whether torch itself set a hook, such as that of ``weight_norm``."""
    return str(getattr(hook, "__module__", type(hook).__module__)).startswith("torch.")


@contextmanager
def _own_code_by_value() -> Iterator[None]:
    """Lets cloudpickle write the code of the user's own modules, which a worker need not find, instead of their names."""
    modules = [module for name, module in list(sys.modules.items()) if _is_own(name, module)]
    before = cloudpickle.list_registry_pickle_by_value()
    modules = [module for module in modules if module.__name__ not in before]
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def _is_own(name: str, module: ModuleType) -> bool:
    file = vars(module).get("__file__") if isinstance(module, ModuleType) else None
    if name == "__main__" or not isinstance(file, str) or not file.endswith(".py") or vars(module).get("__name__") != name:
        return False
    path = Path(file)
    return path.is_absolute() and not _PACKAGES.intersection(path.parts) and not is_installed(path)


def _blame(value: Any, path: str, error: Exception, seen: set[int]) -> tuple[str, Exception]:
    """Returns the path of the innermost part that cannot be pickled, and why."""
    seen.add(id(value))
    for name, part in _parts(value):
        if id(part) in seen:
            continue
        try:
            cloudpickle.dumps(part)
        except Exception as inner:  # noqa: BLE001 - pickling calls the user's code
            return _blame(part, path + name, inner, seen)
    return path, error


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, nn.Module):
        inner = (value.named_children(), value.named_parameters(recurse=False), value.named_buffers(recurse=False))
        named = itertools.chain(*inner, vars(value).items())  # what the module holds in dicts of its own comes by its name first
        yield from ((f".{name}", part) for name, part in named)
    elif isinstance(value, dict):
        yield from ((f"[{key!r}]", part) for key, part in value.items())
    elif isinstance(value, list | tuple | set):
        yield from ((f"[{index}]", part) for index, part in enumerate(value))
    elif isinstance(value, functools.partial):
        yield from (("", value.func), ("", value.args), ("", value.keywords))
    elif isinstance(value, FunctionType):
        yield from _variables(value)
    elif isinstance(value, type):
        for name, part in vars(value).items():
            if isinstance(part, FunctionType) or not name.startswith("__"):
                yield f".{name}", part
    elif hasattr(value, "__dict__"):
        yield from ((f".{name}", part) for name, part in vars(value).items())


def _variables(function: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    used = inspect.getclosurevars(function)
    for name, part in {**used.nonlocals, **used.globals}.items():
        if not isinstance(part, ModuleType):
            yield f".{name}", part
