"""Handwritten digits: 1,797 images of 8 × 8 pixels in ten classes."""

from __future__ import annotations

from typing import Literal

from workbench.data.base import FILES, Dataset, DatasetSummary, LabelledSamples, dataset
from workbench.spec.options import DatasetOptions

_NUM_SAMPLES, _NUM_PIXELS, _MAX_INTENSITY = 1797, 64, 16


class DigitsOptions(DatasetOptions):
    name: Literal["digits"] = "digits"


@dataset("digits")
class Digits(Dataset[DigitsOptions]):
    """1,797 handwritten digits as 64 intensities between 0 and 1 (UCI, CC BY 4.0)."""

    Options = DigitsOptions

    def summary(self) -> DatasetSummary:
        return DatasetSummary("features", (_NUM_PIXELS,), 10, _NUM_SAMPLES, has_ignored_targets=False)

    def load(self) -> LabelledSamples:
        import numpy as np

        table = np.loadtxt(FILES / "digits.csv", delimiter=",", skiprows=1, dtype=np.int64)
        return LabelledSamples((table[:, 1:] / _MAX_INTENSITY).astype(np.float32), table[:, 0].copy())
