"""The contract of a dataset: what is known beforehand, its samples, and the order in which they are seen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeVar

from workbench.errors import PluginError, SpecError
from workbench.plan.loss_weights import IGNORED
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

    kind: str
    """What a sample's input is: tokens, features, images, series, or a word of a plugin's own that its models know."""

    input_shape: tuple[int, ...]
    """Shape of one sample's input: tokens (sequence,), features (features,), images (channels, height, width), series
    (steps, features)."""

    num_classes: int
    """Classes to predict; for tokens the vocabulary's size, where numbers are predicted 0."""

    num_samples: int
    tokens_per_sample: int = 0
    """0 for what is not tokens."""

    target: Literal["next", "class", "values", ""] = ""
    """What a sample's target is: at each position the ``next`` token or step, a ``class``, or ``values``, numbers of
    ``value_shape``; by default the next of tokens and series, and a class of everything else."""

    value_shape: tuple[int, ...] = ()
    """Shape of the numbers to predict of one sample, such as (1,), or (horizon, features) of a series."""

    has_ignored_targets: bool = True
    """Whether a target may be −100, which losses leave out. False spares every worker the look at the targets of the whole
    global batch, by which shards with unequal numbers of targets are weighted."""

    def __post_init__(self) -> None:
        if not self.target:
            object.__setattr__(self, "target", "next" if self.kind in ("tokens", "series") else "class")
        if self.target not in ("next", "class", "values"):
            raise PluginError(f'DatasetSummary: target must be "next", "class" or "values", but got {self.target!r}')
        if (self.target == "values") != bool(self.value_shape):
            raise PluginError(
                'DatasetSummary: target = "values" requires a value_shape such as (1,), and other targets must not have one'
            )
        if self.target == "class" and self.num_classes < 2:
            raise PluginError(f'DatasetSummary: target = "class" requires num_classes of at least 2, but got {self.num_classes}')

    @property
    def target_shape(self) -> tuple[int, ...]:
        """Shape of one sample's target."""
        return self.input_shape if self.target == "next" else self.value_shape

    @property
    def has_numbers(self) -> bool:
        """Whether numbers are predicted (float32), and not classes (int64)."""
        return self.target == "values" or (self.target == "next" and self.kind != "tokens")

    @property
    def num_outputs(self) -> int:
        """Numbers that a model gives for a sample, or for each of its positions where the next is predicted."""
        if self.target == "values":
            return prod(self.value_shape)
        return self.input_shape[-1] if self.has_numbers else self.num_classes

    def require(self, model: str, takes: Mapping[str, Sequence[str]], advice: str) -> None:
        """Checks that a model takes this data.

        Args:
            takes: of each kind of input the targets that the model can predict.
            advice: datasets that fit.

        Raises:
            SpecError: it does not.
        """
        if self.kind not in takes:
            raise SpecError("dataset.name", f"provides {self.kind}, but {model} requires {' or '.join(takes)}; use {advice}")
        if self.target not in takes[self.kind]:
            names = {"next": "next-token or next-step targets", "class": "class targets", "values": "numeric targets"}
            required = " or ".join(names[target] for target in takes[self.kind])
            raise SpecError("dataset.name", f"provides {self.kind} with {names[self.target]}, but {model} requires {required}")


class Samples(Protocol):
    """Samples by index."""

    def __len__(self) -> int: ...

    def batch(self, indices: Array) -> tuple[Array, Array]:
        """Inputs and targets.

        Inputs: int64 tokens (batch, sequence); float32 features (batch, features), images (batch, channels, height, width) or
        series (batch, steps, features). Targets: the next tokens or steps, of the inputs' shape and type; int64 labels
        (batch,); or float32 values (batch, *value_shape). A label of −100
        counts in no loss; where there are any, ``targets(indices)``, if it exists, spares reading the inputs of other workers'
        samples.
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
    """Inputs (samples, …) of float32 with labels (samples,) of int64, or values (samples, *value_shape) of float32."""

    features: Array
    labels: Array

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Array) -> tuple[Array, Array]:
        return self.features[indices], self.labels[indices]

    def targets(self, indices: Array) -> Array:
        """The labels alone."""
        return self.labels[indices]


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
class PaddedWindows:
    """Windows of which sample i has ``lengths[i]`` tokens; the rest is padding, token 0, whose targets are ignored."""

    windows: TokenWindows
    lengths: Array

    def __len__(self) -> int:
        return len(self.windows)

    def batch(self, indices: Array) -> tuple[Array, Array]:
        import numpy as np

        is_token = np.arange(self.windows.length) < self.lengths[indices][:, None]  # (batch, sequence)
        inputs, targets = self.windows.batch(indices)
        return np.where(is_token, inputs, 0), np.where(is_token, targets, IGNORED)


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
        in_epoch = epochs == epoch
        indices[in_epoch] = np.random.default_rng((seed, int(epoch))).permutation(num_samples)[positions[in_epoch] % num_samples]
    return indices
