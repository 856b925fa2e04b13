"""Dropout whose mask is a function of the sample instead of the process that computes it.

A hash of the run's seed, the step, the layer, the sample and the index of the element within the sample decides whether an
element is kept: a counter-based generator (Salmon et al. 2011). Masks are thus independent of the split, and backward recomputes
them instead of saving them.
"""

from __future__ import annotations

import zlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function


class SampleDropout(nn.Module):
    """Zeroes elements of x (batch, …) with probability ``p`` and scales the others by 1 / (1 − p) (Srivastava et al. 2014).
    Returns x in eval mode.

    Without ``keys`` it is ``nn.Dropout``. If x has several rows per sample, (batch × rows, …), the rows of a sample are adjacent.
    """

    keys: Tensor | None = None
    """int32 (batch,): key of each sample of this forward pass, set by ``DropoutKeys``."""

    positions: Tensor | None = None
    """int64 (sequence,): positions of the sequence in dim 1 of the input (batch, sequence, …); None for 0, 1, …."""

    def __init__(self, p: float) -> None:
        super().__init__()
        assert 0 <= p < 1
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if self.keys is None or len(x) % len(self.keys):
            return nn.functional.dropout(x, self.p)
        return _apply(x, self.keys, self.positions, self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class SubstituteDropout(SampleDropout):
    """Replaces an ``nn.Dropout`` in a model that does not declare whether dim 0 of its input is the batch."""


def substitute_dropout(module: nn.Module) -> nn.Module:
    """Returns ``module`` with each ``nn.Dropout`` replaced by a ``SubstituteDropout``."""
    if type(module) is nn.Dropout and 0 < module.p < 1:
        return SubstituteDropout(module.p).train(module.training)
    for name, child in module.named_children():
        setattr(module, name, substitute_dropout(child))
    return module


class DropoutKeys:
    """Sets the keys of the dropouts in ``blocks``, for each piece of a step.

    Args:
        blocks: Blocks held by a worker, under the names of the unsplit model, from which the keys are derived.
        seed: Seed of the run.
    """

    def __init__(self, blocks: nn.Module, seed: int, device: torch.device) -> None:
        named = {name: m for name, m in blocks.named_modules() if isinstance(m, SampleDropout) and m.p > 0}
        self.dropouts, self._device = list(named.values()), device
        layers = torch.tensor([_signed(zlib.crc32(name.encode())) for name in named], dtype=torch.int32, device=device)
        self._layers = _mix(layers ^ _mix(torch.tensor(_signed(seed), dtype=torch.int32, device=device)))

    def begin_step(self, step: int, samples: Tensor) -> None:
        """Begins a step.

        Args:
            samples: Indices of the samples in the global batch, in the order in which this worker computes them.
        """
        if self.dropouts:
            steps = _mix(torch.tensor(_signed(step), dtype=torch.int32, device=self._device))
            sample_hashes = _mix(samples.to(self._device, torch.int32))
            self._keys = _mix(_mix(self._layers ^ steps)[:, None] ^ sample_hashes)  # (dropouts, samples)
            self.begin_piece(0, 1)

    def begin_piece(self, index: int, count: int, positions: Tensor | None = None) -> None:
        """Begins the ``index``-th of ``count`` equal pieces of these samples, with all positions of a sequence or the given
        ones."""
        if not self.dropouts:
            return
        for dropout, keys in zip(self.dropouts, self._keys.chunk(count, dim=1)[index], strict=True):
            dropout.keys = keys
            dropout.positions = dropout.positions if positions is None else positions


class _Drop(Function):
    """Dropout that recomputes its mask in backward. It saves no tensors, so activation checkpointing recomputes nothing for
    it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, keys: Tensor, positions: Tensor | None, p: float) -> Tensor:
        ctx.mask = keys, positions, p
        return _drop(x, keys, positions, p)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _drop(gradients[0], *ctx.mask), None, None, None


@torch.compiler.disable  # type: ignore[untyped-decorator]  # compiled, the hash produces different masks (torch 2.13)
def _apply(x: Tensor, keys: Tensor, positions: Tensor | None, p: float) -> Tensor:
    return _Drop.apply(x, keys, positions, p)


def _drop(x: Tensor, keys: Tensor, positions: Tensor | None, p: float) -> Tensor:
    return (x * (1 / (1 - p))).mul_(_keep_mask(x, keys, positions, p))


def _keep_mask(x: Tensor, keys: Tensor, positions: Tensor | None, p: float) -> Tensor:
    """Returns the mask of kept elements, bool in the shape of x."""
    rows = len(x) // len(keys)
    hashes = keys if rows == 1 else _mix(keys[:, None] ^ _mix(torch.arange(rows, dtype=torch.int32, device=x.device))).flatten()
    for dim in range(1, x.dim()):
        if dim == 1 and positions is not None and x.dim() > 2:
            indices = positions.to(torch.int32)
        else:
            indices = torch.arange(x.shape[dim], dtype=torch.int32, device=x.device)
        hashes = hashes[..., None] ^ _mix(indices + dim)
        hashes = _mix_high(hashes) if dim == x.dim() - 1 else _mix(hashes)
    return hashes >= int(p * 2**32) - 2**31


def _mix(x: Tensor) -> Tensor:
    """Hashes 32 bits so that every input bit flips every output bit with a probability near one half (Wellons 2018, "lowbias32").
    int32 multiplication wraps around, as in torch."""
    x = x ^ (x >> 16).bitwise_and_(0xFFFF)  # torch shifts in the sign
    x = x.mul_(0x7FEB352D)
    x = x.bitwise_xor_((x >> 15).bitwise_and_(0x1FFFF))
    x = x.mul_(_signed(0x846CA68B))
    return x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF))


def _mix_high(x: Tensor) -> Tensor:
    """Like ``_mix``, in place, for inputs that are hashes already and outputs of which only the high bits are used; half the
    cost."""
    x = x.mul_(0x7FEB352D)
    return x.bitwise_xor_((x >> 15).bitwise_and_(0x1FFFF)).mul_(_signed(0x846CA68B))


def _signed(number: int) -> int:
    """Returns the lower 32 bits as a signed integer."""
    return (number + 2**31) % 2**32 - 2**31
