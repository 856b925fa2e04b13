"""``torch.distributed.fsdp`` and the replicating form built on it."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed.fsdp  # defines the operators
from torch.distributed._composable import replicate_with_fsdp

replicate: Any = replicate_with_fsdp.replicate
"""(modules, mesh=…, ignored_params=…) averages gradients over a mesh, block by block.

Private: torch.distributed._composable.replicate_with_fsdp.replicate
Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/distributed/_composable/replicate_with_fsdp.py
Checked: torch 2.11, 2.12, 2.13
Reason: DDP takes neither DTensors nor the microbatches of a pipeline.
"""

CHUNK_CAT = torch.ops.fsdp.chunk_cat.default
"""The operator that copies whole gradients into the buffer of the reduce-scatter.

Private: torch.ops.fsdp.chunk_cat
Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/distributed/fsdp/_fully_shard/_fsdp_collectives.py
Checked: torch 2.11, 2.12, 2.13
Reason: FSDP tells no one which gradients wait for their reduce-scatter.
"""
