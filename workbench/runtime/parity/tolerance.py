"""Tolerance of the parity check: which errors are rounding, by precision."""

from __future__ import annotations

from dataclasses import dataclass

_BF16_ROUNDOFF = 2**-8
_GLOBAL_NORM_SHARE = {"fp64": 1e-3, "fp32": 1e-3, "bf16": 1.0}


@dataclass(frozen=True)
class Tolerance:
    """Tolerance of the errors of one precision."""

    rounding: float
    """Largest error that counts as parity."""

    global_norm_share: float
    """Share of the norm of all tensors of a kind that is the least denominator of their errors."""


def tolerance(precision: str, num_blocks: int) -> Tolerance:
    """Returns the tolerance of ``fp64``, ``fp32`` or ``bf16`` for a model of so many blocks.

    In fp64 and fp32 the rounding of a few steps stays orders of magnitude below it, and a mistake lies above. bf16 rounds to 8
    bits, with a relative error of at most u = 2⁻⁸. The output of a block has gone through about four roundings that a split may
    do in another order (a partial sum, the sum, the bias, the residual). The error of an output is thus at most 4·B·u after B
    blocks, and that of a gradient, which passes them twice, 8·B·u. Cancellation magnifies it in single tensors, so errors of
    bf16 are relative to the norm of all tensors of a kind.
    """
    rounding = {"fp64": 1e-9, "fp32": 1e-3, "bf16": 8 * num_blocks * _BF16_ROUNDOFF}
    return Tolerance(rounding[precision], _GLOBAL_NORM_SHARE[precision])
