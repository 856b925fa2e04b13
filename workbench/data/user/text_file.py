"""Text of the user's own, with bytes as tokens."""

from __future__ import annotations

from typing import Annotated

from pydantic import PositiveInt

from workbench.data.base import DatasetSummary, TokenWindows
from workbench.data.user.paths import FileDataset, num_windows
from workbench.spec.options import DatasetOptions, ReadsFile

_NUM_BYTES = 256


class TextFileOptions(DatasetOptions):
    """Options of a text file."""

    name: Annotated[str, ReadsFile]
    """Path of the .txt file."""

    sequence_length: PositiveInt = 128
    """Number of bytes per sample."""


class TextFile(FileDataset[TextFileOptions]):
    """Windows of the bytes of a text file, which is mapped, not read; predicts the next byte."""

    name = "text file"
    Options = TextFileOptions

    def summary(self) -> DatasetSummary:
        length, size = self.options.sequence_length, self.path.stat().st_size
        num_samples = num_windows(size, length, "bytes")
        return DatasetSummary("tokens", (length,), _NUM_BYTES, num_samples, length, has_ignored_targets=False)

    def load(self) -> TokenWindows:
        import numpy as np

        text = np.memmap(self.path, dtype=np.uint8, mode="r")
        return TokenWindows(text, self.options.sequence_length)
