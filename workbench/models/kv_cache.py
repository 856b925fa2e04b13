"""Generation with a key/value cache, with which blocks process one position after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn


class KVCache:
    """Cached keys and values of one attention layer. Memory for ``max_length`` positions is allocated at the first call."""

    def __init__(self, max_length: int) -> None:
        self.max_length, self.length = max_length, 0

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Appends keys and values of new positions, (batch, key/value heads, new, head_dim), and returns all so far."""
        start, self.length = self.length, self.length + k.shape[2]
        assert self.length <= self.max_length, f"{self.length} positions in a cache of {self.max_length}"
        if start == 0:
            batch, heads, _, head_dim = k.shape
            self._keys, self._values = (k.new_empty(batch, heads, self.max_length, head_dim) for _ in range(2))
        self._keys[:, :, start : self.length], self._values[:, :, start : self.length] = k, v
        return self._keys[:, :, : self.length], self._values[:, :, : self.length]


class Decoder:
    """Calls the blocks during generation: the input of each call has the positions that follow those of the previous calls.

    Several decoders may alternate on the same blocks, each with its own cache. With ``last_only`` a head computes only the last
    of the new positions.
    """

    def __init__(self, blocks: nn.Module, max_length: int, *, last_only: bool = True) -> None:
        from workbench.models.transformer_modules import Attention, Head, Positioned

        self.blocks, self.length, self.last_only = blocks, 0, last_only
        self._positioned = [m for m in blocks.modules() if isinstance(m, Positioned)]
        self._heads = [m for m in blocks.modules() if isinstance(m, Head)]
        self._caches = [(m, KVCache(max_length)) for m in blocks.modules() if isinstance(m, Attention)]

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the outputs at the new positions, for tokens (batch, new) or the output of the previous stage (batch, new,
        …)."""
        import torch

        start, self.length = self.length, self.length + x.shape[1]
        for attention, cache in self._caches:
            attention.cache = cache
        for module in self._positioned:
            module.positions = torch.arange(start, self.length, device=x.device)
        for head in self._heads:
            head.last_only = self.last_only
        try:
            with torch.no_grad():  # the cache is written in place
                return self.blocks(x)
        finally:
            self._restore()

    def _restore(self) -> None:
        """Restores the blocks."""
        for attention, _ in self._caches:
            attention.cache = None
        for module in self._positioned:
            module.positions = None
        for head in self._heads:
            head.last_only = False


def generate(decoder: Callable[[Tensor], Tensor], prompt: Tensor, num_tokens: int) -> Tensor:
    """Returns the most likely next tokens (batch, num_tokens) after a prompt (batch, sequence), by greedy decoding."""
    import torch

    tokens: list[Tensor] = []
    new = prompt
    for _ in range(num_tokens):
        new = decoder(new).argmax(dim=-1)
        tokens.append(new)
    return torch.cat(tokens, dim=1)
