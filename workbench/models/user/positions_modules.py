"""Checks that a module has a learned position for every position of the samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from workbench.errors import SpecError
from workbench.torch_private.dispatch import TorchDispatchMode


class CheckedPositions(TorchDispatchMode):
    """Refuses, in forward passes over samples of ``length`` positions, a table of positions that is too short: its lookup would
    fail without a reason, and on torch's ``meta`` device not at all.

    Args:
        name: name of the model in messages.

    Raises:
        SpecError: in the forward pass, with the table and its number of positions.
    """

    def __init__(self, name: str, root: nn.Module, length: int) -> None:
        super().__init__()
        self.name, self.length = name, length
        named = ((path, module) for path, module in root.named_modules() if isinstance(module, nn.Embedding))
        self.tables = {id(module.weight): (path, module) for path, module in named if _has_positions(path, module)}

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        super().__exit__(kind, error, traceback)
        if isinstance(error, Exception) and not isinstance(error, SpecError):  # something else may have failed before the lookup
            for path, table in self.tables.values():
                if self.length > table.num_embeddings - _num_unused(table):
                    raise self._refusal(path, table.num_embeddings - _num_unused(table)) from error

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.embedding.default and id(args[0]) in self.tables:
            path, table = self.tables[id(args[0])]
            needed = self._num_rows_for(args[1], table)
            if needed > table.num_embeddings:
                raise self._refusal(path, table.num_embeddings - max(0, needed - self.length))
        return func(*args, **(kwargs or {}))

    def _num_rows_for(self, indices: Tensor, table: nn.Embedding) -> int:
        if indices.is_meta:  # without values; each position of a sample has a row of its own
            return self.length + _num_unused(table) if indices.dim() and indices.shape[-1] == self.length else 0
        return int(indices.max()) + 1 if indices.numel() else 0

    def _refusal(self, path: str, most: int) -> SpecError:
        return SpecError(
            "dataset.name",
            f"provides sequences of {self.length} tokens, but {path} of {self.name} has {most} positions; use at most {most}, or"
            " a model with more positions",
        )


def _num_unused(table: nn.Embedding) -> int:
    """Returns the number of rows before that of the first position, which models that derive from fairseq's have."""
    offset = getattr(table, "offset", 0 if table.padding_idx is None else table.padding_idx + 1)
    return offset if isinstance(offset, int) else 0


def _has_positions(path: str, table: nn.Embedding) -> bool:
    """Whether a table is named as one of positions; one of distances between them has other indices."""
    words = f"{path.rpartition('.')[2]} {type(table).__name__}".lower()
    return ("pos" in words or "wpe" in words) and "rel" not in words
