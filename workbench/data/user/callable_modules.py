"""The samples of a user's dataset, as arrays of whole batches."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate

from workbench.data.user.kinds import as_numbers, described
from workbench.data.user.stream_modules import Stream
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
_NUM_COMPARED = 100
"""Samples of a stream that are read twice."""


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


class StreamedSamples(Stream):
    """Samples of an iterable dataset."""

    def batch(self, indices: Array) -> tuple[Any, Any]:
        """Returns the samples at positions up to which the stream has been read."""
        try:
            with self.source.imports():
                batch = self.chosen(indices)
        except Exception as error:
            text = failure_text(error, f"collating samples of {self.source.label}", self.source.folder, self.source.path)
            raise SpecError(self.source.field, text) from error
        return _inputs_and_targets(batch, self.source)


AnySamples = CollatedSamples | WholeSamples | StreamedSamples


def loaded(dataset: UserData) -> AnySamples:
    """Returns the samples of a user's dataset, the same in every process as far as they are drawn from the generators of Python,
    numpy and torch.

    Raises:
        SpecError: it cannot be loaded, or is no dataset; the message has the user's own file and line.
    """
    o = dataset.options

    def make() -> Any:
        random.seed(_SEED)
        np.random.seed(_SEED)
        torch.manual_seed(_SEED)
        return built(o.source, o.options, "dataset.options")

    return samples_of(make, o.source, o.num_samples)


def samples_of(make: Callable[[], Any], source: Source, num_samples: int = 0) -> AnySamples:
    """Returns the samples of what a user's callable returned: a map-style or iterable dataset, a data loader of one, or a pair of
    inputs and targets with the samples as dim 0.

    Args:
        make: Calls the callable.
        num_samples: Number of samples of an iterable dataset to keep in memory; 0 for a stream.

    Raises:
        SpecError: it is none of these; the message has the user's own file and line.
    """
    made, collate = _dataset_and_collate(make())
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
            return StreamedSamples(_epochs(made, make), collate, source)
        made = list(itertools.islice(made, num_samples))
        if len(made) < num_samples:
            raise SpecError("dataset.num_samples", f"{source.label} has {len(made)} samples, but got {num_samples}")
    if not hasattr(made, "__len__"):
        raise SpecError(source.field, f"{source.label} must return a dataset with __len__, but returned {type(made).__name__}")
    if isinstance(made, Mapping) or not len(made):
        raise SpecError(source.field, f"{source.label} must return a dataset with samples, but returned {type(made).__name__}")
    return CollatedSamples(made, collate, source)


def _dataset_and_collate(made: Any) -> tuple[Any, Callable[[list[Any]], Any]]:
    """Returns the dataset of a data loader with its collate function, and another object with torch's."""
    if isinstance(made, DataLoader):
        return made.dataset, made.collate_fn if made.batch_size is not None else default_collate
    return made, default_collate


def _epochs(made: Any, make: Callable[[], Any]) -> Callable[[], Iterator[Any]]:
    """Returns a function that begins the next epoch of an iterable: a new iteration, or of what can be iterated once, such as a
    generator, another call of the callable."""
    if iter(made) is not made:
        return lambda: iter(made)
    already = [made]
    return lambda: iter(already.pop() if already else _dataset_and_collate(make())[0])


def summary_of(samples: AnySamples, source: Source, num_classes: int, again: AnySamples | None = None) -> DatasetSummary:
    """Returns the summary of samples.

    Args:
        again: The samples of a stream, made once more.

    Raises:
        SpecError: batches of them have other shapes than single samples, or a stream has other samples at its second reading.
    """
    if isinstance(samples, StreamedSamples):
        assert isinstance(again, StreamedSamples)
        return _summary_of_stream(samples, again, source, num_classes)
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


def _summary_of_stream(samples: StreamedSamples, again: StreamedSamples, source: Source, num_classes: int) -> DatasetSummary:
    """Returns the summary of a stream, from the first samples of it."""
    first, is_all = samples.beginning(_NUM_DESCRIBED)
    if not first:
        raise SpecError(source.field, f"{source.label} has no samples")
    few = min(_NUM_COMPARED, len(first))
    kept, others = (CollatedSamples(part, samples.collate, source) for part in (first, again.beginning(few)[0]))
    if len(others) < few or not _are_equal(kept.batch(np.arange(few)), others.batch(np.arange(few))):
        raise SpecError(
            source.field,
            f"{source.label} must return the same samples in the same order each time it is read, but they differ: every worker"
            " reads them for itself; seed what is random with a constant",
        )
    count = len(first) if is_all else 0
    return replace(summary_of(kept, source, num_classes), num_samples=count, is_streamed=True)


def _are_equal(some: Any, others: Any) -> bool:
    pairs = zip(tensors(some).values(), tensors(others).values(), strict=True)
    return all(np.array_equal(one, other, equal_nan=one.dtype.kind == "f") for one, other in pairs)


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
