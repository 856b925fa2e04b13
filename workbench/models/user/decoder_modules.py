"""Generation by a user's module: with the key/value cache of Transformers, or by computing all positions for each token."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import torch
from torch import Tensor, nn

from workbench.models.user.stage_modules import UserBlocks, WholeModule


def cache_argument(module: nn.Module) -> str | None:
    """Returns the name of the argument for the cache of a Transformers model; None for another module, or without a cache."""
    transformers = sys.modules.get("transformers")
    if transformers is None or not isinstance(module, transformers.PreTrainedModel):
        return None
    names = inspect.signature(module.forward).parameters
    return next((name for name in ("cache", "past_key_values") if name in names), None) if "use_cache" in names else None


def scores_last(module: nn.Module) -> bool:
    """Whether a Transformers model can compute the scores of the last position only."""
    return "logits_to_keep" in inspect.signature(module.forward).parameters


class _Decoder:
    """Calls the blocks of one worker in generation.

    A stage after the first has no tokens: its code gets zeros in their place, whose values no unit of the stage may read.
    """

    def __init__(self, blocks: UserBlocks | WholeModule) -> None:
        self.blocks, self.length = blocks, 0

    def computed(self, inputs: tuple[Tensor, ...], num_positions: int, **arguments: Any) -> Any:
        """Returns the output of the blocks for tokens (batch, positions), or for what crosses the cut before them."""
        blocks, first = self.blocks, inputs[0]
        tokens = first if blocks.is_first else torch.zeros(len(first), num_positions, dtype=torch.int64, device=first.device)
        samples = tokens if blocks.result.loss is None else (tokens, ())
        blocks.samples, blocks.arguments = samples, arguments
        try:
            with torch.no_grad():
                return blocks(samples) if blocks.is_first else blocks(*inputs)
        finally:
            blocks.samples, blocks.arguments = None, {}


class CachedDecoder(_Decoder):
    """Decodes with a cache of the keys and values of the layers that this worker holds."""

    def __init__(self, blocks: UserBlocks | WholeModule) -> None:
        super().__init__(blocks)
        module: Any = blocks.code
        name = cache_argument(module)
        assert name is not None, "a module without a cache"
        self.cache = sys.modules["transformers"].DynamicCache(config=module.config)
        self.arguments = {name: self.cache, "use_cache": True} | ({"logits_to_keep": 1} if scores_last(module) else {})

    def __call__(self, *inputs: Tensor) -> Any:
        new = inputs[0].shape[1]
        output = self.computed(inputs, new, **self.arguments)
        self.length += new
        if not (self.blocks.is_first and self.blocks.is_last):
            for layer in self.cache.layers:
                _advance(layer, self.length)
        return output[:, -1:] if self.blocks.is_last else output


def _advance(layer: Any, length: int) -> None:
    """Sets the number of positions of a layer that another worker holds, from which the code computes positions and masks."""
    if not hasattr(layer, "get_seq_length") or layer.get_seq_length() == length:
        return
    if layer.is_sliding:
        layer.cumulative_length = length
    else:
        layer.keys, layer.is_initialized = torch.empty(1).expand(1, 1, length, 1), True


class WindowDecoder(_Decoder):
    """Computes all positions of a sample for each token. Those after the last token are zeros, which no score before them depends
    on."""

    def __init__(self, blocks: UserBlocks | WholeModule, window: int, prompt_length: int) -> None:
        super().__init__(blocks)
        self.window, self.prompt_length = window, prompt_length
        self._tokens: Tensor | None = None

    def __call__(self, *inputs: Tensor) -> Any:
        before, self.length = self.length, self.length + (1 if self.length else self.prompt_length)
        if self.blocks.is_first:
            (tokens,) = inputs
            if self._tokens is None:
                self._tokens = tokens.new_zeros(len(tokens), self.window)
            self._tokens[:, before : self.length] = tokens
            inputs = (self._tokens,)
        output = self.computed(inputs, self.window)
        return output[:, self.length - 1 : self.length] if self.blocks.is_last else output
