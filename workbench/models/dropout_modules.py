"""Dropout whose mask is a function of the sample, not of the process that computes it.

Whether an element is kept is decided by a hash of the run's seed, the step, the layer, the sample and the element's place in the
sample: a counter-based generator (Salmon et al. 2011). So the masks are the same however the work is split, and backward
computes a mask again instead of keeping it.
"""

from __future__ import annotations

import zlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function


class SampleDropout(nn.Module):
    """Zeroes elements of x (batch, …) with probability ``p`` and scales the others by 1 / (1 − p) (Srivastava et al. 2014);
    in eval mode x itself.

    Without ``keys`` it is ``nn.Dropout``. Where x has several rows a sample, (batch × rows, …), a sample's rows lie together.
    """

    keys: Tensor | None = None
    """int32 (batch,): a number for each sample of this forward pass, set by ``DropoutKeys``."""

    positions: Tensor | None = None
    """int64 (sequence,): which positions dim 1 of a sequence (batch, sequence, …) holds; None: 0, 1, …."""

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
    """In the place of an ``nn.Dropout`` in a model that does not say whether dim 0 of its input are the samples."""


def substitute_dropout(module: nn.Module) -> nn.Module:
    """``module`` with a ``SubstituteDropout`` for every ``nn.Dropout``."""
    if type(module) is nn.Dropout and 0 < module.p < 1:
        return SubstituteDropout(module.p).train(module.training)
    for name, child in module.named_children():
        setattr(module, name, substitute_dropout(child))
    return module


class DropoutKeys:
    """Gives the dropouts in ``blocks`` their keys, piece by piece of a step.

    Args:
        blocks: those that a worker holds, by the names of the unsplit model, of which the keys are made.
        seed: the run's.
    """

    def __init__(self, blocks: nn.Module, seed: int, device: torch.device) -> None:
        named = {name: m for name, m in blocks.named_modules() if isinstance(m, SampleDropout) and m.p > 0}
        self.dropouts, self._device = list(named.values()), device
        layers = torch.tensor([_signed(zlib.crc32(name.encode())) for name in named], dtype=torch.int32, device=device)
        self._layers = _mix(layers ^ _mix(torch.tensor(_signed(seed), dtype=torch.int32, device=device)))

    def begin_step(self, step: int, samples: Tensor) -> None:
        """``samples``: indices, in the step's global batch, of the samples that are going to be computed, in their order."""
        if self.dropouts:
            steps = _mix(torch.tensor(_signed(step), dtype=torch.int32, device=self._device))
            of_samples = _mix(samples.to(self._device, torch.int32))
            self._keys = _mix(_mix(self._layers ^ steps)[:, None] ^ of_samples)  # (dropouts, samples)
            self.begin_piece(0, 1)

    def begin_piece(self, index: int, count: int, positions: Tensor | None = None) -> None:
        """What is computed next is the i-th of n equal parts of these samples; of a sequence maybe some positions alone."""
        if not self.dropouts:
            return
        for dropout, keys in zip(self.dropouts, self._keys.chunk(count, dim=1)[index], strict=True):
            dropout.keys = keys
            dropout.positions = dropout.positions if positions is None else positions


class _Drop(Function):
    """The mask is computed again in backward. Its inputs are no saved tensors: activation checkpointing need not compute
    anything again for them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, keys: Tensor, positions: Tensor | None, p: float) -> Tensor:
        ctx.mask = keys, positions, p
        return _drop(x, keys, positions, p)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _drop(gradients[0], *ctx.mask), None, None, None


@torch.compiler.disable  # type: ignore[untyped-decorator]  # compiled, the hash gives other masks (torch 2.13)
def _apply(x: Tensor, keys: Tensor, positions: Tensor | None, p: float) -> Tensor:
    return _Drop.apply(x, keys, positions, p)


def _drop(x: Tensor, keys: Tensor, positions: Tensor | None, p: float) -> Tensor:
    return (x * (1 / (1 - p))).mul_(_kept(x, keys, positions, p))


def _kept(x: Tensor, keys: Tensor, positions: Tensor | None, p: float) -> Tensor:
    """Which elements are kept, bool in x's shape."""
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
    """A hash of 32 bits of which every input bit changes every output bit with a probability near a half (Wellons 2018,
    "lowbias32"); int32 multiplication wraps around, as torch's does."""
    x = x ^ (x >> 16).bitwise_and_(0xFFFF)  # torch shifts the sign in
    x = x.mul_(0x7FEB352D)
    x = x.bitwise_xor_((x >> 15).bitwise_and_(0x1FFFF))
    x = x.mul_(_signed(0x846CA68B))
    return x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF))


def _mix_high(x: Tensor) -> Tensor:
    """As ``_mix``, in place and of numbers that are hashes already, where only the higher bits are used: cheaper by half."""
    x = x.mul_(0x7FEB352D)
    return x.bitwise_xor_((x >> 15).bitwise_and_(0x1FFFF)).mul_(_signed(0x846CA68B))


def _signed(number: int) -> int:
    """The lower 32 bits as a signed integer."""
    return (number + 2**31) % 2**32 - 2**31
