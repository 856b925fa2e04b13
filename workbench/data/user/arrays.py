"""Samples from numpy's files: inputs and targets of an ``.npz``, or a stream of tokens in an ``.npy``."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import NonNegativeInt, PositiveInt

from workbench.data.base import DatasetSummary, TokenWindows
from workbench.data.user.kinds import as_numbers, described
from workbench.data.user.paths import FileDataset, num_windows
from workbench.data.user.whole_samples import WholeSamples
from workbench.errors import SpecError
from workbench.messages import listed, unknown_name
from workbench.plan.nested import nested
from workbench.spec.options import DatasetOptions, ReadsFile

if TYPE_CHECKING:
    from workbench.data.base import Array

_TARGETS = ("targets", "target", "labels", "label", "y")


class ArraysOptions(DatasetOptions):
    """Options of arrays."""

    name: Annotated[str, ReadsFile]
    """Path of the .npz file, whose arrays have the samples as dim 0. Arrays named inputs.0, inputs.1 are arguments of the model
    by position, inputs.mask one by name."""

    inputs: tuple[str, ...] = ()
    """Names of the arrays with inputs; by default all but the targets."""

    targets: tuple[str, ...] = ()
    """Names of the arrays with targets; by default the one named targets, labels or y, or the last."""

    num_classes: NonNegativeInt = 0
    """Number of classes, or of tokens; 0: one more than the largest in the file."""


class Arrays(FileDataset[ArraysOptions]):
    """Inputs and targets from an .npz file."""

    name = "arrays"
    Options = ArraysOptions

    def summary(self) -> DatasetSummary:
        samples = self.load()
        return described(samples.inputs, samples.all_targets, samples.count, self.options.num_classes)

    def load(self) -> WholeSamples:
        path = self.path
        return _read(path, path.stat().st_mtime_ns, self.options.inputs, self.options.targets)


@functools.lru_cache(maxsize=4)
def _read(path: Path, modified: int, inputs: tuple[str, ...], targets: tuple[str, ...]) -> WholeSamples:
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: as_numbers(file[name], f"{name} in {path.name}") for name in file.files}
    except (ValueError, OSError, EOFError) as error:
        raise SpecError("dataset.name", f"{path} cannot be read as .npz: {error}") from None
    for field, names in (("inputs", inputs), ("targets", targets)):
        if unknown := next((name for name in names if name not in arrays), None):
            raise SpecError(f"dataset.{field}", unknown_name("array", unknown, sorted(arrays)))
    if not targets:
        named = [name for name in arrays if name.lower() in _TARGETS]
        targets = (named[0],) if named else tuple(arrays)[-1:]
    inputs = inputs or tuple(name for name in arrays if name not in targets)
    if not inputs:
        raise SpecError("dataset.name", f"{path} requires arrays of inputs and of targets, but has only {listed(list(arrays))}")
    lengths = {name: len(arrays[name]) if arrays[name].ndim else 0 for name in (*inputs, *targets)}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        counts = listed([f"{name} has {length}" for name, length in lengths.items()])
        raise SpecError("dataset.name", f"the arrays of {path} must have equally many samples, but {counts}")
    of_inputs, of_targets = (_structured({name: arrays[name] for name in names}) for names in (inputs, targets))
    if isinstance(of_targets, np.ndarray) and of_targets.dtype == np.float32 and of_targets.ndim == 1:
        of_targets = of_targets[:, None]  # values to predict have a shape
    return WholeSamples(of_inputs, of_targets, next(iter(lengths.values())))


def _structured(arrays: dict[str, Array]) -> Any:
    """Returns the arrays of the inputs or the targets: nested if their names are paths such as ``inputs.0`` and ``inputs.1``; the
    only one; or all by name."""
    if all(name.startswith("inputs.") for name in arrays) or all(name.startswith("targets.") for name in arrays):
        return nested({name.partition(".")[2]: array for name, array in arrays.items()})
    return arrays if len(arrays) > 1 else next(iter(arrays.values()))


class TokenFileOptions(DatasetOptions):
    """Options of a stream of tokens."""

    name: Annotated[str, ReadsFile]
    """Path of the .npy file: an array of integers, one token each."""

    sequence_length: PositiveInt = 128
    """Number of tokens per sample."""

    num_classes: NonNegativeInt = 0
    """Size of the vocabulary; 0: one more than the largest token."""


class TokenFile(FileDataset[TokenFileOptions]):
    """Windows of a stream of tokens in an .npy file, which is mapped, not read; predicts the next token."""

    name = "tokens"
    Options = TokenFileOptions

    def summary(self) -> DatasetSummary:
        o, tokens = self.options, self._tokens()
        num_samples = num_windows(len(tokens), o.sequence_length, "tokens")
        path = self.path
        vocabulary = o.num_classes or _largest(path, path.stat().st_mtime_ns) + 1
        return DatasetSummary(
            "tokens", (o.sequence_length,), vocabulary, num_samples, o.sequence_length, has_ignored_targets=False
        )

    def load(self) -> TokenWindows:
        return TokenWindows(self._tokens(), self.options.sequence_length)

    def _tokens(self) -> Array:
        path = self.path
        return _mapped(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _mapped(path: Path, modified: int) -> Array:
    import numpy as np

    try:
        tokens: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise SpecError("dataset.name", f"{path} cannot be read as .npy: {error}") from None
    if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
        raise SpecError(
            "dataset.name", f"{path} must be an array of integers, one per token, but is {tokens.dtype} of shape {tokens.shape}"
        )
    return tokens


@functools.lru_cache(maxsize=4)
def _largest(path: Path, modified: int) -> int:
    return int(_mapped(path, modified).max())
