"""Defines the contract of a dataset: its summary, its samples, and the order in which they are processed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeVar

from workbench.errors import PluginError, SpecError
from workbench.messages import listed
from workbench.plan.loss_weights import IGNORED
from workbench.registry import Attribute, register
from workbench.spec.options import DatasetOptions, options_problem

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

O = TypeVar("O", bound=DatasetOptions)
FILES = Path(__file__).with_name("files")
"""Files of the built-in datasets: in a checkout a link to ``datasets/``, in a wheel a copy of it."""


STRUCTURED = "structured"
"""Kind of samples whose inputs are several tensors, or one of another shape or dtype than the other kinds have."""


@dataclass(frozen=True)
class TensorSummary:
    """One of the tensors of a sample."""

    path: str
    """Where it is in the sample: ``input_ids``, ``0`` for the first of a tuple, ``text.mask``; empty for a single tensor."""

    shape: tuple[int, ...]
    """Shape per sample."""

    dtype: str
    """As numpy names it: ``float32``, ``int64``, ``bool``."""

    low: float = 0
    high: float = 0
    """Least and largest value in the first samples."""


@dataclass(frozen=True)
class DatasetSummary:
    """Describes a dataset to models and plans, without its samples."""

    kind: str
    """Kind of input of a sample: tokens, features, images, series, ``structured``, or another word that a plugin and its models
    share."""

    input_shape: tuple[int, ...]
    """Shape of the input of one sample: tokens (sequence,), features (features,), images (channels, height, width), series
    (steps, features)."""

    num_classes: int
    """Number of classes to predict; the vocabulary size for tokens, 0 if values are predicted."""

    num_samples: int
    """Number of samples; 0 if a stream has more than were read to describe it."""

    tokens_per_sample: int = 0
    """Number of tokens per sample; 0 for other kinds."""

    target: Literal["next", "class", "values", "structured", ""] = ""
    """Target of a sample: the ``next`` token or step at each position, a ``class``, ``values`` of shape ``value_shape``, or
    ``structured``: others. By default ``next`` for tokens and series, and ``class`` for other kinds."""

    value_shape: tuple[int, ...] = ()
    """Shape of the values to predict per sample, such as (1,), or (horizon, features) for a series."""

    has_ignored_targets: bool = True
    """Whether targets may be −100, which losses ignore. If false, workers need not read the targets of the whole global batch,
    which weight shards with unequal numbers of targets."""

    is_streamed: bool = False
    """Whether samples are read in the order of a stream, and not in one that the seed determines."""

    inputs: tuple[TensorSummary, ...] = ()
    """Tensors of the structured inputs of a sample."""

    targets: tuple[TensorSummary, ...] = ()
    """Tensors of the structured targets of a sample; empty if it has none, or a target of another kind."""

    def __post_init__(self) -> None:
        if not self.target:
            object.__setattr__(self, "target", "next" if self.kind in ("tokens", "series") else "class")
        if self.target not in ("next", "class", "values", STRUCTURED):
            raise PluginError(
                f'DatasetSummary: target must be "next", "class", "values" or "structured", but got {self.target!r}'
            )
        if (self.target == "values") != bool(self.value_shape):
            raise PluginError(
                'DatasetSummary: target = "values" requires a value_shape such as (1,), and other targets must not have one'
            )
        if self.target == "class" and self.num_classes < 2:
            raise PluginError(f'DatasetSummary: target = "class" requires num_classes of at least 2, but got {self.num_classes}')

    @property
    def has_structured_inputs(self) -> bool:
        """Whether the inputs are structured."""
        return self.kind == STRUCTURED

    @property
    def has_structured_targets(self) -> bool:
        """Whether the targets are structured."""
        return self.target == STRUCTURED

    @property
    def target_shape(self) -> tuple[int, ...]:
        """Shape of the target of one sample."""
        return self.input_shape if self.target == "next" else self.value_shape

    @property
    def has_numbers(self) -> bool:
        """Whether values are predicted (float32) instead of classes (int64)."""
        return self.target == "values" or (self.target == "next" and self.kind != "tokens")

    @property
    def num_outputs(self) -> int:
        """Number of outputs of a model per sample, or per position if the next token or step is predicted."""
        if self.target == "values":
            return prod(self.value_shape)
        return self.input_shape[-1] if self.has_numbers else self.num_classes

    def require(self, model: str, takes: Mapping[str, Sequence[str]], advice: str) -> None:
        """Checks that a model accepts this data.

        Args:
            model: Name of the model.
            takes: Kind of input → targets that the model can predict.
            advice: Datasets that fit.

        Raises:
            SpecError: the model does not accept it.
        """
        if self.kind not in takes:
            raise SpecError(
                "dataset.name", f"provides {self.kind}, but {model} requires {listed(list(takes), 'or')}; use {advice}"
            )
        if self.target not in takes[self.kind]:
            names = {
                "next": "next-token or next-step targets",
                "class": "class targets",
                "values": "numeric targets",
                STRUCTURED: "structured targets",
            }
            required = listed([names[target] for target in takes[self.kind]], "or")
            raise SpecError("dataset.name", f"provides {self.kind} with {names[self.target]}, but {model} requires {required}")


class Samples(Protocol):
    """Samples by index."""

    def __len__(self) -> int: ...

    def batch(self, indices: Array) -> tuple[Array, Array]:
        """Returns inputs and targets of these samples.

        Inputs are int64 tokens (batch, sequence), or float32 features (batch, features), images (batch, channels, height, width)
        or series (batch, steps, features). Targets are the next tokens or steps, in the shape and dtype of the inputs; int64
        labels (batch,); or float32 values (batch, *value_shape). Losses ignore labels of −100. If there are any, an optional
        method ``targets(indices)`` avoids reading the inputs of other workers' samples.
        """


class Dataset(ABC, Generic[O]):
    """A dataset with its options."""

    name: ClassVar[str]
    Options: ClassVar[type[DatasetOptions]]
    examples: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named small option sets ("" is the plain one), which the conformance suite loads; by default the default options."""

    def __init__(self, options: O) -> None:
        self.options = options

    @property
    def label(self) -> str:
        """Name in tables and titles."""
        return self.options.name

    @abstractmethod
    def summary(self) -> DatasetSummary:
        """Returns its kind and sizes."""

    @abstractmethod
    def load(self) -> Samples:
        """Loads its samples."""


dataset = register(
    "dataset", Dataset, (Attribute("Options", "Options = MyOptions", subclass_of=DatasetOptions),), options_problem
)


@dataclass(frozen=True)
class LabelledSamples:
    """float32 inputs (samples, …) with int64 labels (samples,) or float32 values (samples, *value_shape)."""

    features: Array
    labels: Array

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Array) -> tuple[Array, Array]:
        return self.features[indices], self.labels[indices]

    def targets(self, indices: Array) -> Array:
        """Returns only the labels."""
        return self.labels[indices]


@dataclass(frozen=True)
class TokenWindows:
    """Consecutive windows of tokens: sample i starts at i × length and has ``length`` tokens; its targets are the next tokens."""

    tokens: Array
    length: int

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.length

    def batch(self, indices: Array) -> tuple[Array, Array]:
        import numpy as np

        positions = indices[:, None] * self.length + np.arange(self.length)  # (batch, sequence)
        chosen = (np.asarray(self.tokens[at]).astype(np.int64, copy=False) for at in (positions, positions + 1))
        return next(chosen), next(chosen)


@dataclass(frozen=True)
class PaddedWindows:
    """Windows of which sample i has ``lengths[i]`` tokens. The rest is padding (token 0), whose targets are ignored."""

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
    """float32 sequences (samples, steps + 1, features); the target of each step is the next step."""

    values: Array

    def __len__(self) -> int:
        return len(self.values)

    def batch(self, indices: Array) -> tuple[Array, Array]:
        chosen = self.values[indices]
        return chosen[:, :-1], chosen[:, 1:]


def sample_order(seed: int, num_samples: int, step: int, batch_size: int) -> Array:
    """Returns the sample indices of a step's global batch. Each epoch is a new permutation, determined by the seed."""
    import numpy as np

    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs = positions // num_samples
    indices = np.empty(batch_size, dtype=np.int64)
    for epoch in np.unique(epochs):
        in_epoch = epochs == epoch
        indices[in_epoch] = np.random.default_rng((seed, int(epoch))).permutation(num_samples)[positions[in_epoch] % num_samples]
    return indices
