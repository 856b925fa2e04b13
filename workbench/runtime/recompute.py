"""Activation checkpointing: a block's inner activations are dropped and computed again in backward (Chen et al. 2016)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from workbench.models.dropout_modules import SampleDropout
from workbench.torch_private.dispatch import FUNCTIONAL_COLLECTIVES, FUSED_ATTENTION

_KEPT = (
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.convolution.default,
    *FUSED_ATTENTION,
    *FUNCTIONAL_COLLECTIVES,
)
"""What is dear to compute again: matrix products, attention, and what came from other workers."""


def checkpoint_blocks(blocks: nn.Sequential, mode: Literal["none", "full", "selective"]) -> None:
    """Makes each block forget its inner activations, all of them or the cheap ones; parameters keep their names."""
    if mode == "none":
        return
    context: dict[str, Any] = {}
    if mode == "selective":
        context["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _keep_what_is_dear)
    for block in blocks:
        forward, dropouts = block.forward, [m for m in block.modules() if isinstance(m, SampleDropout) and m.p > 0]
        if dropouts:
            block.forward = functools.partial(_checkpoint_with_masks, forward, dropouts, context)
        else:
            block.forward = functools.partial(checkpoint, forward, use_reentrant=False, **context)


@torch.compiler.disable(recursive=False)  # type: ignore[untyped-decorator]  # what is inside is compiled
def _checkpoint_with_masks(
    forward: Callable[..., Any], dropouts: list[SampleDropout], context: dict[str, Any], *args: Any
) -> Any:
    """As ``checkpoint``; computing again draws the masks of what was computed first, whatever went forward since."""
    drawn = [(dropout.keys, dropout.positions) for dropout in dropouts]

    def run(*args: Any) -> Any:
        for dropout, (keys, positions) in zip(dropouts, drawn, strict=True):
            dropout.keys, dropout.positions = keys, positions
        return forward(*args)

    return checkpoint(run, *args, use_reentrant=False, **context)


def _keep_what_is_dear(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _KEPT else CheckpointPolicy.PREFER_RECOMPUTE
