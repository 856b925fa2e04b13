"""Activation checkpointing: the activations inside a block are dropped and recomputed in backward (Chen et al. 2016)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from workbench.models.dropout_modules import SampleDropout
from workbench.models.user.stage_modules import SURROUNDING, Surrounding
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


def checkpoint_blocks(blocks: Iterable[nn.Module], mode: Mode, has_surrounding: bool = False) -> None:
    """Applies activation checkpointing to each block. ``full`` recomputes all activations inside it; ``selective`` saves the
    outputs of ``_SAVED_OPS``. Parameter names do not change.

    Args:
        has_surrounding: Whether the code of the blocks runs in a context of its own, which recomputation must enter.
    """
    if mode == "none":
        return
    context: dict[str, Any] = {}
    if mode == "selective":
        context["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _save_policy)
    if has_surrounding:
        context["context_fn"] = functools.partial(_contexts_within, context.get("context_fn", _no_contexts))
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


def _no_contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    return nullcontext(), nullcontext()


def _contexts_within(contexts: Callable[[], Any]) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Returns the contexts of the forward pass, which is inside its surrounding, and of the recomputation."""
    forward, recomputation = contexts()
    return forward, _both(SURROUNDING.get(), recomputation)


@contextmanager
def _both(surrounding: Surrounding, inner: AbstractContextManager[Any]) -> Iterator[None]:
    with surrounding(), inner:
        yield


def _save_policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _SAVED_OPS else CheckpointPolicy.PREFER_RECOMPUTE
