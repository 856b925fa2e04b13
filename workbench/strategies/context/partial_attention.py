"""Attention to a part of the keys, with the log-sum-exp (lse) of its scores, by which the results of several parts are merged.

The merged values are the means of the parts' values weighted by exp(lse) (Milakov and Gimelshein 2018). Backward recomputes the
softmax of each part from the lse of all parts (Dao et al. 2022).
"""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.torch_private.dispatch import cpu_attention, cpu_attention_backward


def attend(q: Tensor, k: Tensor, v: Tensor, is_causal: bool) -> tuple[Tensor, Tensor]:
    """Returns softmax(q kᵀ / √head_dim) v and the log-sum-exp of the scores.

    Args:
        q: (batch, heads, queries, head_dim).
        k, v: (batch, key/value heads, keys, head_dim); each head serves the same number of query heads.
        is_causal: query i attends to keys 0 to i; otherwise to all.

    Returns:
        The values, in the shape of q, and the lse (batch, heads, queries).
    """
    if q.device.type == "cpu":  # two to four times as fast as attend_by_hand
        return cpu_attention(q, k, v, 0.0, is_causal)
    return attend_by_hand(q, k, v, is_causal)


def attend_backward(
    gradient: Tensor, q: Tensor, values: Tensor, lse: Tensor, k: Tensor, v: Tensor, is_causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the contribution of a part of the keys to the gradients of q, k and v.

    Args:
        gradient: gradient of the values, in the shape of q.
        values: merged values of all parts, in the shape of q.
        lse: log-sum-exp of the scores of all parts, (batch, heads, queries).
    """
    if q.device.type == "cpu":
        return cpu_attention_backward(gradient, q, k, v, values, lse, 0.0, is_causal)
    return attend_backward_by_hand(gradient, q, values, lse, k, v, is_causal)


def attend_by_hand(q: Tensor, k: Tensor, v: Tensor, is_causal: bool) -> tuple[Tensor, Tensor]:
    """``attend`` on any device and in any precision: torch's fused kernels for GPUs have no fp64, which parity needs."""
    scores = _scores(q, k, is_causal)
    lse = scores.logsumexp(-1)
    values = (scores - lse[..., None]).exp() @ v[:, :, None].to(scores.dtype)
    return values.flatten(1, 2).to(q.dtype), lse.flatten(1, 2)


def attend_backward_by_hand(
    gradient: Tensor, q: Tensor, values: Tensor, lse: Tensor, k: Tensor, v: Tensor, is_causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """``attend_backward`` on any device and in any precision (Dao et al. 2022, appendix B.2)."""
    softmax = (_scores(q, k, is_causal) - lse.unflatten(1, (k.shape[1], -1))[..., None]).exp()
    gradient, grouped, values = (t.unflatten(1, (k.shape[1], -1)).to(softmax.dtype) for t in (gradient, q, values))
    keys, value_groups = (t[:, :, None].to(softmax.dtype) for t in (k, v))
    d_softmax = gradient @ value_groups.mT - (gradient * values).sum(-1, keepdim=True)
    d_scores = softmax * d_softmax * q.shape[-1] ** -0.5
    dq, dk, dv = (d_scores @ keys).flatten(1, 2), (d_scores.mT @ grouped).sum(2), (softmax.mT @ gradient).sum(2)
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)


def _scores(q: Tensor, k: Tensor, is_causal: bool) -> Tensor:
    """Returns q kᵀ / √head_dim in at least single precision, (batch, key/value heads, query heads of each, queries, keys)."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    scores: Tensor = q.unflatten(1, (k.shape[1], -1)).to(dtype) @ k[:, :, None].mT.to(dtype) * q.shape[-1] ** -0.5
    if is_causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    return scores
