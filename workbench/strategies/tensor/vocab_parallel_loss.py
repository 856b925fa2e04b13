"""Cross-entropy of scores that are sliced by vocabulary over the workers."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function
from torch.distributed.device_mesh import DeviceMesh

from workbench.plan.loss_weights import IGNORED
from workbench.strategies.tensor.collectives import all_reduced


def cross_entropy_of_slices(outputs: Tensor, targets: Tensor, mesh: DeviceMesh) -> Tensor:
    """Returns the mean cross-entropy of the scores, of which ``outputs`` (batch, …, classes / workers) is the local slice,
    against targets (batch, …). As in torch, targets of −100 are ignored."""
    return _CrossEntropy.apply(outputs.flatten(0, -2), targets.flatten(), mesh)


class _CrossEntropy(Function):
    """log Σ exp(score) − score of the target; backward softmax − 1 at the target, without communication (Shoeybi et al. 2019,
    section 3)."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, targets: Tensor, mesh: DeviceMesh) -> Tensor:
        highest = scores.amax(-1).to(torch.promote_types(scores.dtype, torch.float32))
        dist.all_reduce(highest, dist.ReduceOp.MAX, group=mesh.get_group())
        shifted = scores - highest[:, None]  # (positions, classes / workers)
        places = targets - mesh.get_local_rank() * scores.shape[1]  # of the targets, relative to the local slice
        is_local = (places >= 0) & (places < scores.shape[1])
        places = places.where(is_local, 0)
        target_scores = shifted.gather(1, places[:, None])[:, 0].where(is_local, 0)
        exponentials = shifted.exp_()
        denominators, target_scores = all_reduced(torch.stack([exponentials.sum(-1), target_scores]), mesh)
        softmax = exponentials.div_(denominators[:, None]).to(scores.dtype)
        counts = targets != IGNORED
        ctx.save_for_backward(softmax, places, is_local, counts)
        loss: Tensor = (denominators.log() - target_scores).where(counts, 0).sum() / counts.sum()
        return loss.to(scores.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        softmax, places, is_local, counts = ctx.saved_tensors
        gradient = softmax.scatter_add(1, places[:, None], -is_local[:, None].to(softmax.dtype))
        return gradient * (counts * (gradients[0] / counts.sum()))[:, None], None, None
