"""Synthetic samples of any shape: deterministic and learnable, for sizes that no small file provides."""

from __future__ import annotations

from math import prod
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from workbench.data.base import Dataset, DatasetSummary, LabelledSamples, PaddedWindows, Sequences, TokenWindows, dataset
from workbench.errors import SpecError
from workbench.spec.options import AppliesIf, DatasetOptions, NoCost

_SURPRISE = 0.1  # share of tokens that the previous token does not determine
_RADIANS_PER_STEP = (0.1, 1.0)


class SyntheticOptions(DatasetOptions):
    name: Literal["synthetic"] = "synthetic"

    kind: Literal["tokens", "features", "images", "series"] = "tokens"
    """Kind of data: token sequences or numeric series to continue, feature vectors or images to classify."""

    num_samples: PositiveInt = 1024
    """Number of samples."""

    sequence_length: Annotated[PositiveInt, AppliesIf("kind", ("tokens", "series"))] = 128
    """Number of tokens or time steps per sample (tokens, series)."""

    vocabulary_size: Annotated[int, Field(ge=2), AppliesIf("kind", ("tokens",))] = 256
    """Vocabulary size (tokens)."""

    num_features: Annotated[PositiveInt, AppliesIf("kind", ("features", "series"))] = 64
    """Number of features per sample or time step (features, series)."""

    channels: Annotated[PositiveInt, AppliesIf("kind", ("images",))] = 3
    """Number of image channels (images)."""

    height: Annotated[PositiveInt, AppliesIf("kind", ("images",))] = 32
    """Image height in pixels (images)."""

    width: Annotated[PositiveInt, AppliesIf("kind", ("images",))] = 32
    """Image width in pixels (images)."""

    num_classes: Annotated[int, Field(ge=2), AppliesIf("kind", ("features", "images"))] = 10
    """Number of classes (features, images)."""

    num_values: Annotated[NonNegativeInt, AppliesIf("kind", ("features",))] = 0
    """Number of values to predict instead of a class (features); 0 predicts a class."""

    seed: Annotated[NonNegativeInt, NoCost] = 0
    """Random seed of the samples."""

    padded: Annotated[bool, AppliesIf("kind", ("tokens",))] = False
    """Whether samples have different lengths, from 0 to sequence_length, with padding that the loss ignores (tokens)."""


@dataset("synthetic")
class Synthetic(Dataset[SyntheticOptions]):
    """Synthetic samples of any shape: tokens that follow a permutation, features or images with linear labels, waves."""

    Options = SyntheticOptions
    examples = {
        "tokens": {"kind": "tokens", "num_samples": 50, "sequence_length": 16, "vocabulary_size": 32},
        "padded tokens": {"num_samples": 50, "sequence_length": 16, "vocabulary_size": 32, "padded": True},
        "features": {"kind": "features", "num_samples": 50, "num_features": 12, "num_classes": 3},
        "features with numbers": {"kind": "features", "num_samples": 50, "num_features": 12, "num_values": 2},
        "images": {"kind": "images", "num_samples": 50, "channels": 2, "height": 4, "width": 6, "num_classes": 3},
        "series": {"kind": "series", "num_samples": 50, "sequence_length": 16, "num_features": 3},
    }

    def summary(self) -> DatasetSummary:
        o = self.options
        if o.num_values and o.kind != "features":
            raise SpecError("dataset.num_values", f'requires kind = "features", but kind = "{o.kind}"; remove it')
        if o.kind == "tokens":
            length, has_ignored = o.sequence_length, o.padded
            return DatasetSummary("tokens", (length,), o.vocabulary_size, o.num_samples, length, has_ignored_targets=has_ignored)
        if o.kind == "series":
            shape: tuple[int, ...] = (o.sequence_length, o.num_features)
            return DatasetSummary("series", shape, 0, o.num_samples, has_ignored_targets=False)
        shape = (o.num_features,) if o.kind == "features" else (o.channels, o.height, o.width)
        if o.num_values:
            return DatasetSummary(o.kind, shape, 0, o.num_samples, target="values", value_shape=(o.num_values,))
        return DatasetSummary(o.kind, shape, o.num_classes, o.num_samples, has_ignored_targets=False)

    def load(self) -> TokenWindows | PaddedWindows | LabelledSamples | Sequences:
        import numpy as np

        o = self.options
        # One generator per purpose: more samples must change neither earlier samples nor their rule.
        rule, values, surprises, lengths = (np.random.default_rng((o.seed, purpose)) for purpose in range(4))
        if o.kind == "series":  # each feature is a wave with its own frequency, and each sample starts at its own phase
            frequencies = rule.uniform(*_RADIANS_PER_STEP, o.num_features)
            starts = values.uniform(0, 2 * np.pi, (o.num_samples, 1, o.num_features))
            steps = np.arange(o.sequence_length + 1)[:, None]  # (steps + 1, 1)
            return Sequences(np.sin(starts + steps * frequencies).astype(np.float32))
        if o.kind != "tokens":
            shape = self.summary().input_shape
            features = values.standard_normal((o.num_samples, prod(shape)), dtype=np.float32)
            if o.num_values:
                values_of = features @ rule.standard_normal((prod(shape), o.num_values)) / np.sqrt(prod(shape))
                return LabelledSamples(features.reshape(-1, *shape), values_of.astype(np.float32))
            labels = (features @ rule.standard_normal((prod(shape), o.num_classes))).argmax(axis=1)
            return LabelledSamples(features.reshape(-1, *shape), labels)
        follows = rule.permutation(o.vocabulary_size)
        tokens = values.integers(o.vocabulary_size, size=o.num_samples * o.sequence_length + 1)
        follow = surprises.random(len(tokens)) > _SURPRISE
        for i in range(1, len(tokens)):
            if follow[i]:
                tokens[i] = follows[tokens[i - 1]]
        windows = TokenWindows(tokens, o.sequence_length)
        return PaddedWindows(windows, lengths.integers(o.sequence_length + 1, size=o.num_samples)) if o.padded else windows
