"""Finds the modules that compute in lower precision inside a model in fp64, as RMS norms of Transformers do in fp32."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from workbench.messages import listed
from workbench.models.blocks_modules import Blocks
from workbench.torch_private.dispatch import TorchDispatchMode, tree_leaves

_LOSS = "the loss"


class LowerPrecision(TorchDispatchMode):
    """Notes, in a forward pass with gradients, which modules compute something that has a gradient in fewer bits than fp64. What
    has none, such as the angles of rotary position embeddings, is the same for every piece of a batch.

    Args:
        root: The module that is called.
    """

    supports_higher_order_operators = True
    """Of ``torch.cond`` and others, whose results are seen."""

    def __init__(self, root: nn.Module) -> None:
        super().__init__()
        self.root = root
        self.paths: dict[tuple[str, torch.dtype], list[str]] = {}
        """Class and format → paths of the modules."""
        self._calls: list[tuple[str, nn.Module]] = []
        self._hooks = ExitStack()

    def __enter__(self) -> LowerPrecision:
        for path, module in self.root.named_modules():
            self._hooks.callback(module.register_forward_pre_hook(self._entering(path)).remove)
            self._hooks.callback(module.register_forward_hook(self._leave, always_call=True).remove)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.close()
        super().__exit__(*error)

    def _entering(self, path: str) -> Any:
        return lambda module, args: self._calls.append((path, module))

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self._calls.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        lower = next((x.dtype for x in _floats(result) if x.dtype != torch.float64), None)
        if lower is not None and any(x.requires_grad for x in _floats((args, kwargs))):
            path, module = self._calls[-1] if self._calls else ("", self.root)
            # Outside of all modules of the model
            name = _LOSS if isinstance(module, Blocks) or not self._calls else type(module).__name__
            paths = self.paths.setdefault((name, lower), [])
            if path not in paths:
                paths.append(path)
        return result

    @property
    def cause(self) -> str | None:
        """What computes in lower precision, a clause; None if nothing does."""
        clauses = [f"{_place(name, paths)} computes in {_format(dtype)}" for (name, dtype), paths in self.paths.items()]
        return listed(clauses) if clauses else None


def _floats(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _place(name: str, paths: list[str]) -> str:
    """Returns ``RMSNorm (layers.0.norm and 3 more)``; the module itself and the loss have no path."""
    if not paths[0]:
        return name
    return f"{name} ({paths[0]}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''})"


def _format(dtype: torch.dtype) -> str:
    return {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}.get(dtype, str(dtype).removeprefix("torch."))
