"""Formulas of gradient compression: communication volume and error."""

from __future__ import annotations

from math import prod
from typing import Literal

from workbench.plan.lossy import Lossy
from workbench.plan.model_summary import ParameterSummary

Compression = Literal["none", "fp16", "bf16", "powersgd"]
UNIT_ROUNDOFF = {"fp16": 2.0**-11, "bf16": 2.0**-8}  # maximum relative error of rounding to nearest
NUM_EXACT_STEPS = 2  # torch's PowerSGD starts no earlier: DDP arranges its buckets in the first step
MIN_COMPRESSION = 2  # torch's PowerSGD compresses a matrix only if its factors are smaller by more than this


def lossiness(compression: Compression, num_workers: int) -> Lossy | None:
    """Returns the declared error of one step of compression on the mean gradient of n workers.

    Each worker rounds its n-th part, and each of the n − 1 additions rounds the sum: the error is at most n times the unit
    roundoff u, relative to the mean norm of the workers' gradients (Higham 2002, section 4.2); that of a mistake is of the order
    of 1. Relative to their mean, which can be arbitrarily small, there is no bound. fp16 has this u only above 2⁻¹⁴: gradients
    that are mostly smaller are lost, which the check should report.
    """
    if compression == "powersgd":
        return Lossy(None, NUM_EXACT_STEPS)
    return None if compression == "none" else Lossy(num_workers * UNIT_ROUNDOFF[compression])


def sent_bytes(parameter: ParameterSummary, compression: Compression, rank: int, element_bytes: int) -> int:
    """Returns the bytes of a parameter's gradient in the all-reduce: two per element with rounding. PowerSGD sends a matrix of r
    rows and c columns as factors of r·k and c·k elements (Vogels et al. 2019, algorithm 1), and vectors uncompressed."""
    if compression in UNIT_ROUNDOFF:
        return 2 * parameter.numel
    if compression != "powersgd":
        return parameter.numel * element_bytes
    rows, columns = parameter.shape[0], prod(parameter.shape[1:])
    factors = min(rows, columns, rank) * (rows + columns)
    is_factored = factors * MIN_COMPRESSION < parameter.numel
    return (factors if is_factored else parameter.numel) * element_bytes
