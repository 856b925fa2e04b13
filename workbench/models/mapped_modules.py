"""Large tensors in mapped files, so that a worker builds a model that its memory cannot hold, and keeps its own part."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import platformdirs
import torch
from torch import Tensor, nn

from workbench.torch_private.dispatch import TorchDispatchMode, tree_leaves, tree_map

_SMALLEST_BYTES = 1 << 20
"""Smaller tensors stay in memory."""


class MappedTensors(TorchDispatchMode):
    """Allocates large tensors on the CPU in files of the user's cache directory, each of which is gone with its tensor.

    What initializes a tensor is executed as usual, so values are those that a build in memory has. Pages of such files count as
    cache: the system writes them to the disk when it needs the memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self._folder = Path(platformdirs.user_cache_dir("workbench", appauthor=False), "parameters")
        self._folder.mkdir(parents=True, exist_ok=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten.empty.memory_format and self._is_large(args[0], kwargs):
            return self._empty(torch.Size(args[0]), kwargs.get("dtype") or torch.get_default_dtype())
        given = {tensor.untyped_storage().data_ptr() for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)}
        return tree_map(lambda value: self._mapped(value, given), func(*args, **kwargs))

    def _is_large(self, shape: list[int], options: dict[str, Any]) -> bool:
        is_plain = str(options.get("device") or "cpu") == "cpu" and options.get("memory_format") in (
            None,
            torch.contiguous_format,
        )
        size = (options.get("dtype") or torch.get_default_dtype()).itemsize
        return is_plain and torch.Size(shape).numel() * size >= _SMALLEST_BYTES

    def _mapped(self, value: Any, given: set[int]) -> Any:
        """Returns a new large tensor in a file; others, also views and what an operation wrote in place, as they are."""
        if not isinstance(value, Tensor) or type(value) is not Tensor or value.device.type != "cpu":
            return value
        storage = value.untyped_storage()
        if storage.nbytes() < _SMALLEST_BYTES or storage.data_ptr() in given or storage.filename or not value.is_contiguous():
            return value
        return self._empty(value.shape, value.dtype).copy_(value)

    def _empty(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        with tempfile.NamedTemporaryFile(dir=self._folder) as file:
            return torch.from_file(file.name, shared=True, size=shape.numel(), dtype=dtype).view(shape)


def copy_to_memory(module: nn.Module) -> None:
    """Copies the parameters and buffers of a module that are in mapped files to memory."""
    for tensor in (*module.parameters(), *module.buffers()):
        if type(tensor) in (Tensor, nn.Parameter) and tensor.device.type == "cpu" and tensor.untyped_storage().filename:
            tensor.data = tensor.data.clone()
