"""The contract of a dataset: what is known beforehand, its samples, and the order in which they are seen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeVar

from workbench.registration import Attribute, register
from workbench.spec.options import DatasetOptions, options_problem

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

O = TypeVar("O", bound=DatasetOptions)
FILES = Path(__file__).with_name("files")
"""The built-in datasets' files: in a checkout a link to ``datasets/``, in a wheel a copy of it."""


@dataclass(frozen=True)
class DatasetSummary:
    """What models and plans must know of a dataset, without its samples."""

    kind: Literal["tokens", "features", "images", "series"]
    input_shape: tuple[int, ...]
    """Shape of one sample's input: tokens (sequence,), features (features,), images (channels, height, width), series
    (steps, features)."""

    num_classes: int
    """Classes to predict; for tokens the vocabulary's size, for series 0."""

    num_samples: int
    tokens_per_sample: int = 0
    """0 for what is not tokens."""

    @property
    def target_shape(self) -> tuple[int, ...]:
        """Shape of one sample's target: what follows each token or step, or one label."""
        return self.input_shape if self.kind in ("tokens", "series") else ()


class Samples(Protocol):
    """Samples by index."""

    def __len__(self) -> int: ...

    def batch(self, indices: Array) -> tuple[Array, Array]:
        """Inputs and targets.

        Tokens: int64 (batch, sequence) and the next tokens. Features and images: float32 (batch, features) or
        (batch, channels, height, width) and int64 labels (batch,). Series: float32 (batch, steps, features) and the
        next values.
        """


class Dataset(ABC, Generic[O]):
    """A dataset with its options."""

    name: ClassVar[str]
    Options: ClassVar[type[DatasetOptions]]
    examples: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Small option sets by name ("" for the plain one), which the conformance suite loads; none: the defaults."""

    def __init__(self, options: O) -> None:
        self.options = options

    @abstractmethod
    def summary(self) -> DatasetSummary:
        """Its kind and sizes."""

    @abstractmethod
    def load(self) -> Samples:
        """Its samples."""


dataset = register(
    "dataset", Dataset, (Attribute("Options", "Options = MyOptions", subclass_of=DatasetOptions),), options_problem
)


@dataclass(frozen=True)
class LabelledSamples:
    """Features or images (samples, …) of float32 with labels (samples,) of int64."""

    features: Array
    labels: Array

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Array) -> tuple[Array, Array]:
        return self.features[indices], self.labels[indices]


@dataclass(frozen=True)
class TokenWindows:
    """Sample i is the window of ``length`` tokens from i × length on; its targets are the next tokens."""

    tokens: Array
    length: int

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.length

    def batch(self, indices: Array) -> tuple[Array, Array]:
        import numpy as np

        positions = indices[:, None] * self.length + np.arange(self.length)  # (batch, sequence)
        return self.tokens[positions], self.tokens[positions + 1]


@dataclass(frozen=True)
class Sequences:
    """Sequences (samples, steps + 1, features) of float32; the target of each step is the step after it."""

    values: Array

    def __len__(self) -> int:
        return len(self.values)

    def batch(self, indices: Array) -> tuple[Array, Array]:
        chosen = self.values[indices]
        return chosen[:, :-1], chosen[:, 1:]


def sample_order(seed: int, num_samples: int, step: int, batch_size: int) -> Array:
    """Indices of a step's global batch: each epoch a fresh permutation, decided by the seed alone."""
    import numpy as np

    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs = positions // num_samples
    indices = np.empty(batch_size, dtype=np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        indices[here] = np.random.default_rng((seed, int(epoch))).permutation(num_samples)[positions[here] % num_samples]
    return indices
