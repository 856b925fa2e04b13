"""``torch.distributed.tensor``."""

from __future__ import annotations

from torch.distributed.tensor import _utils

local_shape_and_offset = _utils.compute_local_shape_and_global_offset
"""(global shape, mesh, placements) → shape of this worker's piece of a DTensor, and where the piece begins.

Private: torch.distributed.tensor._utils.compute_local_shape_and_global_offset
Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/distributed/tensor/_utils.py
Checked: torch 2.11, 2.12, 2.13
Reason: a DTensor does not tell where its piece begins.
"""
