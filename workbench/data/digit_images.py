"""Handwritten digits as images: the same 1,797 samples as ``digits``, for models of rows and columns."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import PositiveInt

from workbench.data.base import Dataset, DatasetSummary, LabelledSamples, dataset
from workbench.data.digits import Digits, DigitsOptions
from workbench.spec.options import DatasetOptions

_SIDE = 8


class DigitImagesOptions(DatasetOptions):
    name: Literal["digit_images"] = "digit_images"

    scale: PositiveInt = 1
    """Upscaling factor: images have 8·scale × 8·scale pixels."""


@dataset("digit_images")
class DigitImages(Dataset[DigitImagesOptions]):
    """1,797 handwritten digits as grey images of 8 × 8 pixels or a multiple (UCI, CC BY 4.0)."""

    Options = DigitImagesOptions
    examples = {"": {}, "scaled": {"scale": 2}}

    def summary(self) -> DatasetSummary:
        digits, side = Digits(DigitsOptions()).summary(), _SIDE * self.options.scale
        return replace(digits, kind="images", input_shape=(1, side, side))

    def load(self) -> LabelledSamples:
        digits, scale = Digits(DigitsOptions()).load(), self.options.scale
        images = digits.features.reshape(-1, 1, _SIDE, _SIDE)
        return LabelledSamples(images.repeat(scale, axis=2).repeat(scale, axis=3), digits.labels)
