"""Describes a user's samples: of which kind their inputs and targets are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.data.base import STRUCTURED, DatasetSummary, TensorSummary
from workbench.errors import SpecError
from workbench.plan.loss_weights import IGNORED
from workbench.plan.nested import tensors

if TYPE_CHECKING:
    import numpy as np

    from workbench.data.base import Array

_KINDS = {1: "features", 2: "series", 3: "images"}
"""Number of dims of the numbers of a sample → kind."""


def tensor_summary(path: str, array: Array) -> TensorSummary:
    """Returns the summary of a tensor of a sample, given the values of some samples."""
    values = array[array != IGNORED] if array.dtype.kind == "i" else array
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    return TensorSummary(path, array.shape[1:], str(array.dtype), low, high)


def described(
    inputs: Any, targets: Any, num_samples: int, num_classes: int = 0, has_ignored_targets: bool = True
) -> DatasetSummary:
    """Returns the summary of a dataset, given the nested arrays of some of its samples.

    Args:
        num_classes: Number of classes, or of tokens; 0 for one more than the largest of these samples.

    Raises:
        SpecError: an integer target is neither a class nor the next token.
    """
    of_inputs = tuple(tensor_summary(path, array) for path, array in tensors(inputs).items())
    of_targets = tuple(tensor_summary(path, array) for path, array in tensors(targets).items())
    first, target = of_inputs[0], of_targets[0] if of_targets else None
    is_single = len(of_inputs) == 1 and not first.path
    kind, sequence = STRUCTURED, 0
    if is_single and first.dtype == "float32":
        kind = _KINDS.get(len(first.shape), STRUCTURED)
    elif is_single and first.dtype == "int64" and len(first.shape) == 1:
        kind, sequence = "tokens", first.shape[0]
    what, count, values = STRUCTURED, num_classes, tuple[int, ...]()
    if target is not None and len(of_targets) == 1 and not target.path:
        if target.dtype == "float32":
            what, count, values = "values", 0, target.shape
        elif target.shape == ():
            what, count = "class", num_classes or max(2, int(target.high) + 1)
            if target.low < 0:
                raise SpecError(
                    "dataset.targets", f"must be classes from 0, or −100 to ignore one, but the least is {target.low:g}"
                )
        elif kind == "tokens" and target.shape == first.shape:
            what, count = "next", num_classes or int(max(first.high, target.high)) + 1
    if kind == "tokens" and what != "next":
        kind = STRUCTURED  # models of tokens predict the next ones
    return DatasetSummary(
        kind,
        first.shape if is_single else (),
        count,
        num_samples,
        sequence if kind == "tokens" else 0,
        target=what,  # type: ignore[arg-type]  # one of its words
        value_shape=values,
        has_ignored_targets=has_ignored_targets and what not in ("values",),
        inputs=of_inputs if kind == STRUCTURED else (),
        targets=of_targets if what == STRUCTURED else (),
    )


def as_numbers(array: np.ndarray[Any, Any], where: str) -> Array:
    """Returns an array in the number formats of samples: float32, int64 or bool; values to predict have at least one dim.

    Raises:
        SpecError: it has no numbers.
    """
    import numpy as np

    if array.dtype == bool or array.dtype == np.int64 or array.dtype == np.float32:
        return array
    if np.issubdtype(array.dtype, np.integer):
        return array.astype(np.int64)
    if np.issubdtype(array.dtype, np.floating):
        return array.astype(np.float32)
    raise SpecError("dataset.name", f"{where} must have numbers, but has {array.dtype}")
