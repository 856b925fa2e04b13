"""Synthetic samples of any shape: deterministic, learnable, for sizes that no small file has."""

from __future__ import annotations

from math import prod
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from workbench.data.base import Dataset, DatasetSummary, LabelledSamples, TokenWindows, dataset
from workbench.spec.options import DatasetOptions

_SURPRISE = 0.1  # share of tokens that the one before does not decide


class SyntheticOptions(DatasetOptions):
    name: Literal["synthetic"] = "synthetic"

    kind: Literal["tokens", "features", "images"] = "tokens"
    """Token sequences to continue, or feature vectors or images to classify."""

    num_samples: PositiveInt = 1024
    """Samples of the set."""

    sequence_length: PositiveInt = 128
    """Tokens of one sample (tokens)."""

    vocabulary_size: Annotated[int, Field(ge=2)] = 256
    """Different tokens (tokens)."""

    num_features: PositiveInt = 64
    """Numbers of one sample (features)."""

    channels: PositiveInt = 3
    """Channels of one sample (images)."""

    height: PositiveInt = 32
    """Rows of pixels of one sample (images)."""

    width: PositiveInt = 32
    """Columns of pixels of one sample (images)."""

    num_classes: Annotated[int, Field(ge=2)] = 10
    """Classes (features, images)."""

    seed: NonNegativeInt = 0
    """Decides the samples."""


@dataset("synthetic")
class Synthetic(Dataset[SyntheticOptions]):
    """Made samples of any shape: tokens that follow a permutation, features or images labelled by a linear map."""

    Options = SyntheticOptions

    def summary(self) -> DatasetSummary:
        o = self.options
        if o.kind == "tokens":
            return DatasetSummary("tokens", (o.sequence_length,), o.vocabulary_size, o.num_samples, o.sequence_length)
        shape = (o.num_features,) if o.kind == "features" else (o.channels, o.height, o.width)
        return DatasetSummary(o.kind, shape, o.num_classes, o.num_samples)

    def load(self) -> TokenWindows | LabelledSamples:
        import numpy as np

        o = self.options
        # One generator a purpose: more samples must not change the ones before, nor the rule they follow.
        rule, values, surprises = (np.random.default_rng((o.seed, purpose)) for purpose in range(3))
        if o.kind != "tokens":
            shape = self.summary().input_shape
            features = values.standard_normal((o.num_samples, prod(shape)), dtype=np.float32)
            labels = (features @ rule.standard_normal((prod(shape), o.num_classes))).argmax(axis=1)
            return LabelledSamples(features.reshape(-1, *shape), labels)
        follows = rule.permutation(o.vocabulary_size)
        tokens = values.integers(o.vocabulary_size, size=o.num_samples * o.sequence_length + 1)
        follow = surprises.random(len(tokens)) > _SURPRISE
        for i in range(1, len(tokens)):
            if follow[i]:
                tokens[i] = follows[tokens[i - 1]]
        return TokenWindows(tokens, o.sequence_length)
