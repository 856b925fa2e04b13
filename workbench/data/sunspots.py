"""Monthly sunspot numbers of two and a half centuries: a real series with a cycle of about eleven years."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from workbench.data.base import FILES, Dataset, DatasetSummary, Sequences, dataset
from workbench.errors import SpecError
from workbench.spec.options import DatasetOptions

_NUM_MONTHS = 3126


class SunspotsOptions(DatasetOptions):
    name: Literal["sunspots"] = "sunspots"

    length: PositiveInt = 64
    """Number of months per sample; samples overlap, with one starting at each month."""


@dataset("sunspots")
class Sunspots(Dataset[SunspotsOptions]):
    """Monthly mean sunspot numbers, 1749 to 2009 (NOAA, public domain), standardised; predicts the next month."""

    Options = SunspotsOptions
    examples = {"": {"length": 24}}

    def summary(self) -> DatasetSummary:
        length = self.options.length
        if length >= _NUM_MONTHS:
            raise SpecError("dataset.length", f"{length} months and a target exceed the {_NUM_MONTHS} months of the series")
        return DatasetSummary("series", (length, 1), 0, _NUM_MONTHS - length, has_ignored_targets=False)

    def load(self) -> Sequences:
        import numpy as np

        months = np.loadtxt(FILES / "sunspots.csv", delimiter=",", skiprows=1, usecols=1)
        standardised = ((months - months.mean()) / months.std()).astype(np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(standardised, self.options.length + 1)
        return Sequences(windows[:, :, None])
