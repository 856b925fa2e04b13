"""A user's data in Python: a name from which workers load a callable, or a live dataset that they get a copy of."""

from __future__ import annotations

from typing import Any

from workbench.data.user.callable import UserDataOptions
from workbench.errors import SpecError
from workbench.sources import live
from workbench.sources.names import attribute_of, named

_FIELD = "dataset.name"


def UserData(data: Any, /, *, num_classes: int = 0, num_samples: int = 0, **options: Any) -> UserDataOptions:  # noqa: N802
    """Returns the dataset of a spec from a torch dataset, a data loader or a pair of tensors, or from a function or class that
    returns one: ``RunSpec(model="mlp", dataset=UserData(TensorDataset(inputs, targets)))``.

    Each worker loads a function or class of an importable module or of a ``.py`` file by its name. Other objects are *live*: each
    run gets a copy, in a file that only this user can read.

    Args:
        data: The dataset, or what returns it.
        num_classes: Number of classes, or of tokens; by default found.
        num_samples: Number of samples of an iterable dataset to keep in memory; by default it is read during the run.
        options: Keyword arguments of a callable.

    Raises:
        SpecError: it is live and cannot be pickled, or takes no arguments; one sentence.
    """
    if options and not callable(data):
        what = type(data).__name__
        raise SpecError("dataset.options", f"{what} is built already and takes no arguments, but got {', '.join(options)}")
    folder, name = (named(data) if callable(data) else None) or _live(data)
    return UserDataOptions(name=name, folder=folder, options=options, num_classes=num_classes, num_samples=num_samples)


def _live(data: Any) -> tuple[str, str]:
    """Returns the folder with the file of a live dataset, and its name."""
    from workbench.sources.pickled_modules import pickled

    label = f"{live.PREFIX}:{attribute_of(data)}"
    return live.write(label, {live.FILES[_FIELD]: pickled(data, label, _FIELD)}), label
