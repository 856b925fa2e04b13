"""Plugins: a decorator states what a class lacks or registers it under a name, and its family looks it up by this name.

Three sources are searched, and nothing is imported before a name is looked up: the package's own files and
folders (one plugin each), installed entry points (groups such as ``workbench.strategies``), and the modules or files
(paths ending in ``.py``) named in the environment variable ``WORKBENCH_PLUGINS`` (comma-separated).
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import pkgutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from workbench.errors import PluginError, PluginWarning, SpecError
from workbench.messages import listed, unknown_name

C = TypeVar("C", bound=type)
NOTHING_REGISTERED = (
    'it registers no plugin; add a decorator such as @strategy("a_name") to a class defined in this file, not to an imported one'
)


@dataclass(frozen=True)
class Family:
    """All plugins of one kind."""

    kind: str
    """Name of the kind in messages: ``model``."""

    package: str
    """Package whose files and folders are the built-in plugins."""

    group: str
    """Entry-point group of external plugins."""

    source_class: str = ""
    """``package.module:Class`` for names that contain a colon, which name a user's own callable; empty if there is none."""

    path_class: str = ""
    """``package.module:function`` that returns the class for a name that is the path of a file or folder; empty if there is
    none."""

    def names(self) -> list[str]:
        """Returns the names of all plugins that can be loaded, sorted."""
        return sorted(_load(self))

    def get(self, name: str, field: str = "") -> Any:
        """Returns the plugin class ``name``.

        Raises:
            SpecError: there is none; the message includes the nearest name and all names.
        """
        if self.source_class and is_source(name):
            return loaded(self.source_class)
        if self.path_class and is_path(name):
            return loaded(self.path_class)(name, field)
        plugins = _load(self)
        if not isinstance(name, str) or name not in plugins:
            if self.source_class and isinstance(name, str) and name.endswith(".py"):
                raise SpecError(field, f"{name} is a file; name a function or class in it, as {name}:CALLABLE")
            own = ", or your own as PATH.py:CALLABLE" if self.source_class else ""
            own += ", or the path of your own, such as table.csv" if self.path_class else ""
            raise SpecError(field, unknown_name(self.kind, name, sorted(plugins)) + own)
        return plugins[name]


MODELS = Family("model", "workbench.models", "workbench.models", "workbench.models.user:UserModel")
DATASETS = Family("dataset", "workbench.data", "workbench.data", path_class="workbench.data.user:dataset_of")
STRATEGIES = Family("strategy", "workbench.strategies", "workbench.strategies")
SCHEDULES = Family("schedule", "workbench.strategies.pipeline.schedules", "workbench.schedules")
USER_OPTIMIZER = "workbench.optimizers.user:UserOptimizer"
"""``package.module:Class`` of an optimizer from the user's own code."""
FAMILIES = (MODELS, DATASETS, STRATEGIES, SCHEDULES)


def loaded(name: str) -> Any:
    """Returns what ``package.module:attribute`` names."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def is_source(name: object) -> bool:
    """Whether a name is that of a user's own callable, such as ``my_model.py:build``, rather than of a plugin."""
    return isinstance(name, str) and ":" in name


def is_path(name: object) -> bool:
    """Whether a name is that of a file or folder, such as ``table.csv`` or ``images/``, or of a callable, rather than of a
    plugin."""
    return isinstance(name, str) and ("/" in name or os.sep in name or is_source(name) or bool(Path(name).suffix))


def announce(path: Path) -> None:
    """Registers the plugins in a file, again if it was edited, in this process and, through the environment, in processes that it
    starts.

    Raises:
        Exception: the error of the file when it is executed; then none of its plugins is registered.
    """
    name = str(path.resolve())
    others = [m for m in os.environ.get("WORKBENCH_PLUGINS", "").split(",") if m.strip() and m.strip() != name]
    os.environ["WORKBENCH_PLUGINS"] = ",".join(others)
    sys.modules.pop(name, None)
    _load.cache_clear()
    _from_file(path)
    os.environ["WORKBENCH_PLUGINS"] = ",".join([*others, name])


@functools.cache
def _load(family: Family) -> dict[str, type]:
    plugins: dict[str, type] = {}
    for module in _modules(family):
        for cls in (plugin for plugin in registered(module) if plugin.plugin_kind == family.kind):  # type: ignore[attr-defined]
            name = str(cls.name)  # type: ignore[attr-defined]
            if plugins.setdefault(name, cls) is not cls:
                first, second = plugins[name].__module__, cls.__module__
                _warn_skipped(f"the {family.kind} {name!r} of {second}", f"{first} already defines this name; use another name")
    return plugins


def registered(module: ModuleType) -> list[type]:
    """Returns the plugins that a module defines, of every kind."""
    classes = [value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__]
    return [cls for cls in dict.fromkeys(classes) if "plugin_kind" in vars(cls)]


def _warn_skipped(plugin: str, reason: str) -> None:
    warnings.warn(f"skipped {plugin}: {reason}", PluginWarning, stacklevel=3)


def _modules(family: Family) -> Iterator[ModuleType]:
    package = importlib.import_module(family.package)
    for info in pkgutil.iter_modules(package.__path__):
        if not info.name.startswith("_") and not info.name.endswith("_modules"):
            yield importlib.import_module(f"{family.package}.{info.name}")
    outside = [(e.value.split(":")[0], f"entry point {e.name!r}") for e in entry_points(group=family.group)]
    outside += [(m.strip(), "WORKBENCH_PLUGINS") for m in os.environ.get("WORKBENCH_PLUGINS", "").split(",") if m.strip()]
    for name, origin in dict.fromkeys(outside):
        try:
            module = _from_file(Path(name)) if name.endswith(".py") else importlib.import_module(name)
        except PluginError as error:
            _warn_skipped(f"plugin {name!r} ({origin})", str(error))
        except OSError as error:
            _warn_skipped(f"plugin {name!r} ({origin})", f"cannot read {error.filename or name} ({error.strerror or error})")
        except Exception as error:  # noqa: BLE001 - somebody else's plugin must not take the rest down
            _warn_skipped(f"plugin {name!r} ({origin})", f"{type(error).__name__}: {error}")
        else:
            if not registered(module):
                _warn_skipped(f"plugin {name!r} ({origin})", NOTHING_REGISTERED)
            yield module


def _from_file(path: Path) -> ModuleType:
    """Returns the file as a module, executed once for all families."""
    name = str(path.resolve())
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            # Compiled again: Python's cache mistakes a file for its previous version if size and modification second are equal.
            exec(compile(path.read_bytes(), path, "exec"), vars(sys.modules[name]))
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


@dataclass(frozen=True)
class Attribute:
    """A class attribute that a plugin must define."""

    name: str
    example: str
    """Example of a definition: ``axis = "data"``."""

    types: tuple[type, ...] = ()
    """Allowed types of the value; empty if ``subclass_of`` or ``member_of`` applies."""

    subclass_of: type | None = None
    """Class of which the value must be a subclass, or the class itself."""

    member_of: type[Enum] | None = None
    """Enum of which the value must be a member, or equal to one."""

    def problem(self, cls: type) -> str:
        """Returns what is wrong with the attribute of a class, a clause that follows its name; empty if nothing is."""
        if not hasattr(cls, self.name):
            return f"does not define {self.name}; add {self.example} to the class"
        value = getattr(cls, self.name)
        if self.subclass_of is not None:
            fits = isinstance(value, type) and issubclass(value, self.subclass_of)
            requirement = f"a subclass of {_path(self.subclass_of)}"
        elif self.member_of is not None:
            fits = value in list(self.member_of)
            requirement = f"one of {', '.join(map(str, self.member_of))}"
        else:
            fits = isinstance(value, self.types)
            requirement = listed([t.__name__ for t in self.types], "or")
        if fits and not isinstance(value, bool):
            return ""
        return f"has {self.name} = {value!r}, which is not {requirement}; use {self.example}"


def register(
    kind: str,
    base: type,
    attributes: Sequence[Attribute] = (),
    other_problem: Callable[[Any, str], str] = lambda cls, name: "",
) -> Callable[[str], Callable[[C], C]]:
    """Returns the decorator of a kind of plugin: ``@strategy("averaging")`` registers a class as the strategy ``averaging``.

    Args:
        kind: Name of the kind in messages: ``model``, ``strategy``.
        base: The contract; its abstract methods and properties must be defined.
        attributes: Class attributes that must be defined.
        other_problem: Given a class and its name, returns another problem as a clause; empty if there is none.

    Raises:
        PluginError: from the decorator, if a class violates the contract; one sentence.
    """

    def decorator(name: str) -> Callable[[C], C]:
        """Registers the decorated class under this name."""
        if not isinstance(name, str) or not name:
            raise PluginError(f'@{kind} requires the name of the {kind}, such as @{kind}("averaging"), but got {name!r}')

        def stamp(cls: C) -> C:
            problems = (_contract_problem(cls, base), *(a.problem(cls) for a in attributes), _examples_problem(cls))
            if problem := next(filter(None, problems), "") or other_problem(cls, name):
                raise PluginError(f"{kind} {name!r}: class {getattr(cls, '__name__', cls)} {problem}")
            cls.plugin_kind = kind  # type: ignore[attr-defined]
            cls.name = name  # type: ignore[attr-defined]
            return cls

        return stamp

    return decorator


def _contract_problem(cls: Any, base: type) -> str:
    if not (isinstance(cls, type) and issubclass(cls, base)):
        return f"is not a subclass of {_path(base)}"
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    return f"does not define {listed(missing)}, required by {_path(base)}" if missing else ""


def _examples_problem(cls: type) -> str:
    examples = getattr(cls, "examples", {})
    is_table = isinstance(examples, Mapping) and all(isinstance(example, Mapping) for example in examples.values())
    return "" if is_table else f'has examples = {examples!r}, which is not a dict from names to options, such as {{"": {{}}}}'


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__name__}"
