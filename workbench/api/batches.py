"""A batch of tensors as the dataset of runs: a file in the store, named by its contents."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.data.user.kinds import as_numbers
from workbench.errors import UsageError
from workbench.messages import listed
from workbench.store.directory import home

if TYPE_CHECKING:
    import numpy as np

FOLDER, FILE = "batches", "batch.npz"
_NUM_CHARACTERS = 16
_KEPT_S = 3600.0
"""Age below which a batch is kept in any case, in seconds: its runs may not be submitted yet."""


def dataset_of_batch(batch: Any) -> tuple[dict[str, Any], int]:
    """Writes a batch into the store and returns the dataset that reads it, and its number of samples.

    Args:
        batch: A pair of inputs and targets, each a tensor or numpy array with the samples as dim 0, or a tuple, list or dict of
            them, nested. Of the inputs, a tuple or list holds the arguments of the model by position, a dict those by name.

    Raises:
        UsageError: it is not such a pair; the message has the part and what it is.
    """
    import numpy as np

    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise UsageError(
            "batch must be a pair (inputs, targets), with several inputs as a tuple ((a, b), targets) or a dict, or the name of a"
            f" dataset, but got {_kind(batch)}"
        )
    inputs, targets = (dict(_arrays(part, name)) for part, name in zip(batch, ("inputs", "targets"), strict=True))
    lengths = {name: len(array) for name, array in {**inputs, **targets}.items()}
    if len(set(lengths.values())) != 1:
        raise UsageError(f"batch: {listed([f'{name} has {count} samples' for name, count in lengths.items()])}, not equally many")
    contents = io.BytesIO()
    np.savez(contents, **{**inputs, **targets})  # type: ignore[arg-type]  # names of arrays
    digest = hashlib.sha256(contents.getvalue()).hexdigest()[:_NUM_CHARACTERS]
    path = home().resolve() / FOLDER / digest / FILE
    if path.is_file():
        path.touch()  # it is as young as a new one
    else:
        _write(path, contents.getvalue())
    dataset = {"name": str(path), "inputs": list(inputs), "targets": list(targets)}
    return dataset, next(iter(lengths.values()))


def remove_unused_batches() -> tuple[int, int]:
    """Removes the batches in the store that no run refers to, hidden runs included, and that are older than an hour.

    Returns:
        The number of batches removed, and of bytes.
    """
    batches = [path for path in (home() / FOLDER).glob(f"*/{FILE}") if time.time() - path.stat().st_mtime > _KEPT_S]
    specs = [path.read_text(encoding="utf-8") for path in (home() / "runs").glob("*/spec.toml")] if batches else []
    unused = [path for path in batches if not any(f"{path.parent.name}/{FILE}" in spec for spec in specs)]
    num_bytes = sum(path.stat().st_size for path in unused)
    for path in unused:
        shutil.rmtree(path.parent)
    return len(unused), num_bytes


def _write(path: Path, contents: bytes) -> None:
    draft = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(contents)
        draft.replace(path)
    except OSError as error:
        raise UsageError(
            f"cannot write the batch to {path} ({error.strerror}); set WORKBENCH_HOME to another directory"
        ) from None


def _arrays(part: Any, path: str) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Yields the arrays of the inputs or the targets by their paths: ``inputs``, ``inputs.0`` in a tuple, ``inputs.mask`` in a
    dict."""
    import numpy as np

    if isinstance(part, Mapping | tuple | list) and part:
        for key, value in part.items() if isinstance(part, Mapping) else enumerate(part):
            if isinstance(part, Mapping) and not (isinstance(key, str) and key.isidentifier()):
                raise UsageError(f"batch: names in {path} must be identifiers, such as those of arguments, but got {key!r}")
            yield from _arrays(value, f"{path}.{key}")
        return
    if hasattr(part, "detach"):
        part = part.detach().cpu()
        part = (part.float() if part.is_floating_point() else part).numpy()
    if not isinstance(part, np.ndarray) or not part.ndim:
        raise UsageError(
            f"batch: {path} must be a tensor with the samples as dim 0, or a tuple, list or dict of such, but got {_kind(part)}"
        )
    yield path, as_numbers(part, f"{path} of the batch")


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, tuple | list | dict) else "")
