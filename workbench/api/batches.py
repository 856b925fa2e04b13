"""A batch of tensors as the dataset of runs: a file in the store, named by its contents."""

from __future__ import annotations

import hashlib
import io
import os
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


def dataset_of_batch(batch: Any) -> tuple[dict[str, Any], int]:
    """Writes a batch into the store and returns the dataset that reads it, and its number of samples.

    Args:
        batch: A pair of inputs and targets: tensors or numpy arrays with the samples as dim 0, or dicts of them, whose names are
            arguments of the model.

    Raises:
        UsageError: it is not such a pair; the message has the part and what it is.
    """
    import numpy as np

    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise UsageError(f"batch must be a pair (inputs, targets) or the name of a dataset, but got {_kind(batch)}")
    inputs, targets = (dict(_arrays(part, name)) for part, name in zip(batch, ("inputs", "targets"), strict=True))
    if shared := sorted(inputs.keys() & targets.keys()):
        raise UsageError(f"batch: inputs and targets both have {listed(shared)}; name them differently")
    lengths = {name: len(array) for name, array in {**inputs, **targets}.items()}
    if len(set(lengths.values())) != 1:
        raise UsageError(f"batch: {listed([f'{name} has {count} samples' for name, count in lengths.items()])}, not equally many")
    contents = io.BytesIO()
    np.savez(contents, **{**inputs, **targets})  # type: ignore[arg-type]  # names of arrays
    digest = hashlib.sha256(contents.getvalue()).hexdigest()[:_NUM_CHARACTERS]
    path = home().resolve() / FOLDER / digest / FILE
    if not path.is_file():
        _write(path, contents.getvalue())
    dataset = {"name": str(path), "inputs": list(inputs), "targets": list(targets)}
    return dataset, next(iter(lengths.values()))


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


def _arrays(part: Any, name: str) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Yields the arrays of the inputs or the targets with their names: ``name`` for a single one."""
    import numpy as np

    if isinstance(part, Mapping):
        if not part or not all(isinstance(key, str) and not isinstance(value, Mapping) for key, value in part.items()):
            raise UsageError(f"batch: {name} must be a tensor or a dict of tensors by name, but got {part!r}"[:200])
        for key, value in part.items():
            yield from _arrays(value, key)
        return
    if hasattr(part, "detach"):
        part = part.detach().cpu()
        part = (part.float() if part.is_floating_point() else part).numpy()
    if not isinstance(part, np.ndarray) or not part.ndim:
        raise UsageError(f"batch: {name} must be a tensor with the samples as dim 0, or a dict of such, but got {_kind(part)}")
    yield name, as_numbers(part, f"{name} of the batch")


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, tuple | list) else "")
