"""A user's own models and data that the pages of a server offer: named by its user when it starts, never by a visitor.

The environment variables hold names as a spec has them, separated by commas: ``WORKBENCH_MODELS=my_model.py:build,hf:llama``.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.data.user.paths import existing
from workbench.errors import PluginWarning, SpecError, UsageError
from workbench.registry import DATASETS, MODELS, is_path, is_source
from workbench.sources.config_source import model_source
from workbench.sources.live import callable_source


@dataclass(frozen=True)
class Offered:
    """What pages offer besides the built-in models and datasets."""

    models: tuple[str, ...] = ()
    """``PATH.py:CALLABLE``, ``package.module:CALLABLE`` or ``hf:PATH/config.json``."""

    datasets: tuple[str, ...] = ()
    """Callables, and paths of files and folders."""

    losses: tuple[str, ...] = ()
    """Callables of (outputs, targets)."""

    def environment(self) -> dict[str, str]:
        """Returns the variables from which ``offered`` reads this.

        Raises:
            UsageError: one of the names is none of a model, dataset or loss, or there is no such file.
        """
        for names, option, check in (
            (self.models, "--model", _check_model),
            (self.datasets, "--dataset", _check_dataset),
            (self.losses, "--loss", _check_loss),
        ):
            for name in names:
                try:
                    check(name)
                except SpecError as error:
                    raise UsageError(f"{option} {name}: {error.message}") from None
                if "," in name:
                    raise UsageError(f"{option} {name}: must be a name without a comma, which separates names")
        values = {"WORKBENCH_MODELS": self.models, "WORKBENCH_DATASETS": self.datasets, "WORKBENCH_LOSSES": self.losses}
        return {variable: ",".join(names) for variable, names in values.items() if names}

    def named(self, paths: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the paths of a run's spec with the offered names of its model, loss and data. A run names the code that it
        recorded; that of the same file's name or config is offered as it is now.

        Raises:
            SpecError: it has a loss or an optimizer of the user's own that is not offered.
        """
        names: dict[str, Callable[[str], str]] = {
            "model.name": lambda name: model_source(name, "model.name").label if is_source(name) else name,
            "model.loss": lambda name: callable_source(name, "model.loss").label,
            "dataset.name": lambda name: _label_of_data(name),
        }
        found = dict(paths)
        for (path, label), of in zip(names.items(), (self.models, self.losses, self.datasets), strict=True):
            if path in paths:
                found[path] = {label(name): name for name in of}.get(label(str(paths[path])), paths[path])
        if (loss := found.get("model.loss")) not in (None, *self.losses):
            raise SpecError("model.loss", f"{loss} is not offered by this server; start it with workbench dashboard --loss")
        if is_source(optimizer := found.get("train.optimizer")):
            raise SpecError("train.optimizer", f"{optimizer} is the user's own code, which pages do not offer; use workbench run")
        return found


@functools.cache
def _usable(name: str, variable: str, check: Callable[[str], object]) -> bool:
    """Whether a name of the environment has the form of one; says why if not, once."""
    try:
        check(name)
    except SpecError as error:
        warnings.warn(f"skipped {name!r} ({variable}): {error.message}", PluginWarning, stacklevel=2)
        return False
    return True


def offered() -> Offered:
    """Returns what the pages of this process offer. What has no form of a name is skipped with a warning; built-in ones are
    offered anyway."""
    return Offered(
        tuple(name for name in _names("WORKBENCH_MODELS", MODELS.get) if is_source(name)),
        tuple(name for name in _names("WORKBENCH_DATASETS", DATASETS.get) if is_path(name)),
        tuple(_names("WORKBENCH_LOSSES", lambda name: callable_source(name, "model.loss"))),
    )


def _names(variable: str, check: Callable[[str], object]) -> list[str]:
    names = dict.fromkeys(filter(None, (name.strip() for name in os.environ.get(variable, "").split(","))))
    return [name for name in names if _usable(name, variable, check)]


def _label_of_data(name: str) -> str:
    """Returns what names the same data in a run: the label of a callable, the absolute path of a file."""
    if name.startswith("hf:") or not is_path(name):
        return name
    return callable_source(name, "dataset.name").label if is_source(name) else str(Path(name).expanduser().resolve())


def _check_model(name: str) -> None:
    MODELS.get(name)
    if is_source(name):
        model_source(name, "model.name").check_file()


def _check_dataset(name: str) -> None:
    DATASETS.get(name)
    if is_path(name):
        if is_source(name) and not name.startswith("hf:"):
            callable_source(name, "dataset.name").check_file()
        else:
            existing(name)


def _check_loss(name: str) -> None:
    callable_source(name, "model.loss").check_file()
