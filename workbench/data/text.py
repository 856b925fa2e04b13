"""Real text with bytes or characters as tokens: the Jargon File, version 4.4.7."""

from __future__ import annotations

import functools
import gzip
from typing import Literal

from pydantic import PositiveInt

from workbench.data.base import FILES, Dataset, DatasetSummary, TokenWindows, dataset
from workbench.spec.options import DatasetOptions

_VOCABULARY_MULTIPLE = 64  # a vocabulary divisible by common numbers of workers can be sliced


class TextOptions(DatasetOptions):
    name: Literal["text"] = "text"

    sequence_length: PositiveInt = 128
    """Number of tokens per sample."""

    tokenizer: Literal["bytes", "characters"] = "bytes"
    """Tokens are bytes (vocabulary of 256) or characters (vocabulary rounded up to a multiple of 64)."""


@dataset("text")
class Text(Dataset[TextOptions]):
    """The Jargon File 4.4.7 (public domain), 1.7 MB of English text; predicts the next token."""

    Options = TextOptions
    examples = {"": {"sequence_length": 32}, "characters": {"sequence_length": 32, "tokenizer": "characters"}}

    def summary(self) -> DatasetSummary:
        length, text = self.options.sequence_length, _text()
        tokens, vocabulary = len(text), 256
        if self.options.tokenizer == "characters":
            characters = text.decode()
            tokens, distinct = len(characters), len(set(characters))
            vocabulary = -(-distinct // _VOCABULARY_MULTIPLE) * _VOCABULARY_MULTIPLE
        num_samples = max(0, (tokens - 1) // length)
        return DatasetSummary("tokens", (length,), vocabulary, num_samples, length, has_ignored_targets=False)

    def load(self) -> TokenWindows:
        import numpy as np

        if self.options.tokenizer == "bytes":
            tokens = np.frombuffer(_text(), dtype=np.uint8).astype(np.int64)
        else:
            tokens = np.unique(list(_text().decode()), return_inverse=True)[1].astype(np.int64)
        return TokenWindows(tokens, self.options.sequence_length)


@functools.cache
def _text() -> bytes:
    return gzip.decompress((FILES / "jargon.txt.gz").read_bytes())
