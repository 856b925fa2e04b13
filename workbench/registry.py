"""Finds plugins: a decorator (``registration.py``) names the class, and the registry looks it up by name.

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
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from workbench.errors import PluginError, PluginWarning, SpecError
from workbench.messages import unknown_name


@dataclass(frozen=True)
class Family:
    """All plugins of one kind."""

    kind: str
    """Name of the kind in messages: ``model``."""

    package: str
    """Package whose files and folders are the built-in plugins."""

    group: str
    """Entry-point group of external plugins."""

    def names(self) -> list[str]:
        """Returns the names of all plugins that can be loaded, sorted."""
        return sorted(_load(self))

    def get(self, name: str, field: str = "") -> Any:
        """Returns the plugin class ``name``.

        Raises:
            SpecError: there is none; the message includes the nearest name and all names.
        """
        plugins = _load(self)
        if not isinstance(name, str) or name not in plugins:
            raise SpecError(field, unknown_name(self.kind, name, sorted(plugins)))
        return plugins[name]


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
        except Exception as error:  # noqa: BLE001 - somebody else's plugin must not take the rest down
            _warn_skipped(f"plugin {name!r} ({origin})", repr(error))
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


NOTHING_REGISTERED = (
    'it registers no plugin; add a decorator such as @strategy("a_name") to a class defined in this file, not to an imported one'
)
MODELS = Family("model", "workbench.models", "workbench.models")
DATASETS = Family("dataset", "workbench.data", "workbench.data")
STRATEGIES = Family("strategy", "workbench.strategies", "workbench.strategies")
SCHEDULES = Family("schedule", "workbench.strategies.pipeline.schedules", "workbench.schedules")
FAMILIES = (MODELS, DATASETS, STRATEGIES, SCHEDULES)
