"""Activation checkpointing: the activations inside a block are dropped and recomputed in backward (Chen et al. 2016)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from workbench.models.dropout_modules import SampleDropout
from workbench.torch_private.dispatch import FUNCTIONAL_COLLECTIVES, FUSED_ATTENTION

Mode = Literal["none", "full", "selective"]
_SAVED_OPS = (
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.convolution.default,
    *FUSED_ATTENTION,
    *FUNCTIONAL_COLLECTIVES,
)
"""Operations that are expensive to recompute: matrix products, convolutions, attention and collectives."""


def checkpoint_blocks(blocks: Iterable[nn.Module], mode: Mode) -> None:
    """Applies activation checkpointing to each block. ``full`` recomputes all activations inside it; ``selective`` saves the
    outputs of ``_SAVED_OPS``. Parameter names do not change."""
    if mode == "none":
        return
    context: dict[str, Any] = {}
    if mode == "selective":
        context["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _save_policy)
    for block in blocks:
        forward, dropouts = block.forward, [m for m in block.modules() if isinstance(m, SampleDropout) and m.p > 0]
        if dropouts:
            block.forward = functools.partial(_checkpoint_with_masks, forward, dropouts, context)
        else:
            block.forward = functools.partial(checkpoint, forward, use_reentrant=False, **context)


@torch.compiler.disable(recursive=False)  # type: ignore[untyped-decorator]  # only this frame: the block inside is compiled
def _checkpoint_with_masks(
    forward: Callable[..., Any], dropouts: list[SampleDropout], context: dict[str, Any], *args: Any, **kwargs: Any
) -> Any:
    """Runs ``checkpoint``. Recomputation draws the same dropout masks, whatever forward passes ran in between."""
    drawn = [(dropout.keys, dropout.positions) for dropout in dropouts]

    def run(*args: Any, **kwargs: Any) -> Any:
        for dropout, (keys, positions) in zip(dropouts, drawn, strict=True):
            dropout.keys, dropout.positions = keys, positions
        return forward(*args, **kwargs)

    return checkpoint(run, *args, use_reentrant=False, **context, **kwargs)


def _save_policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _SAVED_OPS else CheckpointPolicy.PREFER_RECOMPUTE
