"""The samples of a user's dataset, as arrays of whole batches."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate

from workbench.data.user.kinds import as_numbers, described
from workbench.data.user.whole_samples import WholeSamples
from workbench.errors import SpecError
from workbench.plan.nested import tensors
from workbench.sources.failure import failure_text
from workbench.sources.source import Source, built
from workbench.torch_private.dispatch import tree_map

if TYPE_CHECKING:
    from workbench.data.base import Array, DatasetSummary
    from workbench.data.user.callable import UserData

_SEED = 0
_NUM_DESCRIBED = 1000
"""Samples of which kinds, numbers of classes and ranges are found."""


@dataclass(frozen=True)
class CollatedSamples:
    """Samples of a map-style dataset, collated into batches."""

    dataset: Any
    collate: Callable[[list[Any]], Any]
    source: Source

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, indices: Array) -> tuple[Any, Any]:
        try:
            with self.source.imports():
                batch = self.collate([self.dataset[int(index)] for index in indices])
        except SpecError:
            raise
        except Exception as error:
            doing = f"reading {len(indices)} samples of {self.source.label}"
            text = failure_text(error, doing, self.source.folder, self.source.path)
            raise SpecError(self.source.field, text) from error
        return _inputs_and_targets(batch, self.source)


def loaded(dataset: UserData) -> CollatedSamples | WholeSamples:
    """Returns the samples of a user's dataset, the same in every process as far as they are drawn from the generators of Python,
    numpy and torch.

    Raises:
        SpecError: it cannot be loaded, or is no dataset; the message has the user's own file and line.
    """
    random.seed(_SEED)
    np.random.seed(_SEED)
    torch.manual_seed(_SEED)
    o = dataset.options
    return samples_of(built(o.source, o.options, "dataset.options"), o.source, o.num_samples)


def samples_of(made: Any, source: Source, num_samples: int = 0) -> CollatedSamples | WholeSamples:
    """Returns the samples of what a user's callable returned: a map-style or iterable dataset, a data loader of one, or a pair of
    inputs and targets with the samples as dim 0.

    Args:
        num_samples: Number of samples of an iterable dataset.

    Raises:
        SpecError: it is none of these; the message has the user's own file and line.
    """
    collate: Callable[[list[Any]], Any] = default_collate
    if isinstance(made, DataLoader):
        made, collate = made.dataset, made.collate_fn if made.batch_size is not None else default_collate
    if isinstance(made, tuple) and len(made) == 2:
        inputs, targets = _inputs_and_targets(made, source)
        lengths = {path or "the tensor": len(array) for path, array in tensors((inputs, targets)).items()}
        if len(set(lengths.values())) != 1:
            raise SpecError(source.field, f"{source.label} must return equally many inputs and targets, but returned {lengths}")
        return WholeSamples(inputs, targets, next(iter(lengths.values())))
    if isinstance(made, IterableDataset) or not hasattr(made, "__getitem__"):
        if not hasattr(made, "__iter__"):
            raise SpecError(
                source.field,
                f"{source.label} must return a dataset, a data loader, or inputs and targets, but returned {type(made).__name__}",
            )
        if not num_samples:
            raise SpecError(
                "dataset.num_samples", f"{source.label} returns an iterable, which has no number of samples; set how many to read"
            )
        made = list(itertools.islice(made, num_samples))
        if len(made) < num_samples:
            raise SpecError("dataset.num_samples", f"{source.label} has {len(made)} samples, but got {num_samples}")
    if not hasattr(made, "__len__"):
        raise SpecError(source.field, f"{source.label} must return a dataset with __len__, but returned {type(made).__name__}")
    if isinstance(made, Mapping) or not len(made):
        raise SpecError(source.field, f"{source.label} must return a dataset with samples, but returned {type(made).__name__}")
    return CollatedSamples(made, collate, source)


def summary_of(samples: CollatedSamples | WholeSamples, source: Source, num_classes: int) -> DatasetSummary:
    """Returns the summary of samples.

    Raises:
        SpecError: batches of them have other shapes than single samples.
    """
    inputs, targets = samples.batch(np.arange(min(_NUM_DESCRIBED, len(samples))))
    shapes = [{path: array.shape[1:] for path, array in tensors(samples.batch(np.arange(n))).items()} for n in (1, 2)]
    whole = {path: array.shape[1:] for path, array in tensors((inputs, targets)).items()}
    for shape in shapes[: len(samples)]:
        if other := next((path for path in whole if shape.get(path) != whole[path]), None):
            raise SpecError(
                source.field,
                f"{source.label} must return samples of one shape, but {other} has {shape.get(other)} in one batch and"
                f" {whole[other]} in another; pad them to a fixed length",
            )
    of = samples.dataset if isinstance(samples, CollatedSamples) else None
    known = getattr(of, "num_classes", None) or len(getattr(of, "classes", None) or ())
    return described(inputs, targets, len(samples), num_classes or (known if isinstance(known, int) else 0))


def _inputs_and_targets(batch: Any, source: Source) -> tuple[Any, Any]:
    """Returns the arrays of a batch: the parts of a pair, or a dict as inputs with its labels, if it has any, as targets."""
    if isinstance(batch, Mapping):
        parts: tuple[Any, Any] = dict(batch), batch.get("labels", ())
    elif isinstance(batch, tuple | list) and len(batch) == 2:
        parts = batch[0], batch[1]
    elif isinstance(batch, Tensor):
        parts = batch, ()
    else:
        what = f"{len(batch)} parts" if isinstance(batch, Sequence) else type(batch).__name__
        raise SpecError(
            source.field, f"a batch of {source.label} must be a pair of inputs and targets, or a dict, but has {what}"
        )

    def array(value: Any) -> Array:
        if not isinstance(value, Tensor | np.ndarray):
            raise SpecError(source.field, f"a batch of {source.label} must consist of tensors, but has {type(value).__name__}")
        return as_numbers(value.detach().cpu().numpy() if isinstance(value, Tensor) else value, source.label)

    inputs, targets = tree_map(array, parts[0]), tree_map(array, parts[1])
    if isinstance(targets, np.ndarray) and targets.dtype == np.float32 and targets.ndim == 1:
        targets = targets[:, None]  # values to predict have a shape
    return inputs, targets
