"""Batches of several tensors for the models of ``model_zoo.py`` that take them: functions that return torch datasets of dicts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset

_COUNT, _TOKENS, _LENGTH = 64, 32, 8


class _Dicts(Dataset[dict[str, Tensor]]):
    """Tensors by name, with the samples as dim 0."""

    def __init__(self, **tensors: Tensor) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return _COUNT

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: tensor[index] for name, tensor in self.tensors.items()}


def _tokens() -> Tensor:
    return torch.randint(_TOKENS, (_COUNT, _LENGTH))


def sequences() -> _Dicts:
    """Returns source tokens of different lengths, and the target tokens as labels, of which some are ignored."""
    lengths = torch.randint(_LENGTH // 2, _LENGTH + 1, (_COUNT, 1))
    mask, labels = torch.arange(_LENGTH) < lengths, _tokens()
    labels[:, -2:][torch.rand(_COUNT, 2) < 0.5] = -100
    return _Dicts(input_ids=_tokens(), attention_mask=mask.long(), labels=labels)


def speech() -> _Dicts:
    """Returns spectra, and what is spoken as labels."""
    return _Dicts(input_features=torch.randn(_COUNT, 8, 16), labels=_tokens())


def captions() -> _Dicts:
    """Returns images and their captions."""
    return _Dicts(input_ids=_tokens(), pixel_values=torch.randn(_COUNT, 3, 32, 32))
