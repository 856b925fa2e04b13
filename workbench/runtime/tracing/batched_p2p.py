"""Coalesced batches of sends and recvs on recorded process groups, as ``torch.distributed.batch_isend_irecv`` documents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from torch.distributed import distributed_c10d as c10d

from workbench.torch_private.distributed import check_p2p_batch, coalescing_manager

_Batch = Callable[[list[dist.P2POp]], list[dist.Work]]


def coalesce_batches() -> None:
    """Makes ``batch_isend_irecv`` coalesce on recorded process groups too.

    torch coalesces only if ``type(group) is ProcessGroup`` (2.13); on a subclass it issues one operation after the other. NCCL
    runs the operations of a pair of ranks in order, and a send larger than its buffers completes only with its receive: if both
    ranks send first, as in the 1F1B schedule, neither receives. Further calls have no effect.
    """
    if not hasattr(dist.batch_isend_irecv, "on_plain_groups"):
        coalescing: Any = _coalescing(c10d.batch_isend_irecv)
        dist.batch_isend_irecv = c10d.batch_isend_irecv = coalescing


def _coalescing(plain: _Batch) -> _Batch:
    def batch_isend_irecv(p2p_op_list: list[dist.P2POp]) -> list[dist.Work]:
        group: Any = (p2p_op_list[0].group if p2p_op_list else None) or dist.group.WORLD
        if not getattr(group, "coalesces", False):
            return plain(p2p_op_list)
        check_p2p_batch(p2p_op_list)
        with coalescing_manager(group, p2p_op_list[0].tensor.device, async_ops=True) as manager:
            for op in p2p_op_list:
                peer = {"group_dst" if op.op is dist.isend else "group_src": op.group_peer}
                op.op(op.tensor, group=op.group, tag=op.tag, **peer)
        return manager.works

    batch_isend_irecv.__doc__ = plain.__doc__
    batch_isend_irecv.on_plain_groups = plain  # type: ignore[attr-defined]
    return batch_isend_irecv
