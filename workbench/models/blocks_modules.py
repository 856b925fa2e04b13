"""The blocks of a model on one worker."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn


class Blocks(nn.Sequential):
    """Blocks by name, which a forward pass applies one after the other."""

    samples: Any = None
    """The samples that the next forward pass computes; a stage that begins with received tensors may need them."""

    def through(self, call: Callable[[nn.Module, Any], Any], x: Any) -> Any:
        """Returns the output for x with ``call(block, x)`` in place of ``block(x)``."""
        for block in self:
            x = call(block, x)
        return x

    def part(self, names: Iterable[str]) -> Blocks:
        """Returns some of the blocks, as a module of their own."""
        held = dict(self.named_children())
        return type(self)(OrderedDict((name, held[name]) for name in names))
