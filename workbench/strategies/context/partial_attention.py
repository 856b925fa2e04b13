"""Attention of some queries to a part of the keys that they see, such that several parts can be put together.

Beside its values a part has the logarithm of its softmax's denominator; with it the values of several parts are weighed
into one (Milakov and Gimelshein 2018). In backward each part's softmax is computed again, from the denominator of them
all (Dao et al. 2022).
"""

from __future__ import annotations

import torch
from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, is_causal: bool) -> tuple[Tensor, Tensor]:
    """softmax(q kᵀ / √head_dim) v and the denominator's logarithm.

    Args:
        q: (batch, heads, queries, head_dim).
        k, v: (batch, key/value heads, keys, head_dim); each head serves equally many of q's.
        is_causal: query i sees keys 0 to i, else all.

    Returns:
        Values in q's shape, and (batch, heads, queries).
    """
    if q.device.type == "cpu":  # two to four times as fast as by hand
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, is_causal)
    return attend_by_hand(q, k, v, is_causal)


def attend_backward(
    gradient: Tensor, q: Tensor, values: Tensor, denominator: Tensor, k: Tensor, v: Tensor, is_causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """What a part of the keys adds to the gradients of q, k and v.

    Args:
        gradient: Of the values.
        values: Of all parts together, in q's shape.
        denominator: Likewise, its logarithm (batch, heads, queries).
    """
    if q.device.type == "cpu":
        backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        return backward(gradient, q, k, v, values, denominator, 0.0, is_causal)
    return attend_backward_by_hand(gradient, q, values, denominator, k, v, is_causal)


def attend_by_hand(q: Tensor, k: Tensor, v: Tensor, is_causal: bool) -> tuple[Tensor, Tensor]:
    """``attend`` on any device and in any precision: torch's fused kernels for GPUs have no fp64, which parity needs."""
    scores = _scores(q, k, is_causal)
    denominator = scores.logsumexp(-1)
    values = (scores - denominator[..., None]).exp() @ v[:, :, None].to(scores.dtype)
    return values.flatten(1, 2).to(q.dtype), denominator.flatten(1, 2)


def attend_backward_by_hand(
    gradient: Tensor, q: Tensor, values: Tensor, denominator: Tensor, k: Tensor, v: Tensor, is_causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """``attend_backward`` likewise (Dao et al. 2022, appendix B.2)."""
    softmax = (_scores(q, k, is_causal) - denominator.unflatten(1, (k.shape[1], -1))[..., None]).exp()
    gradient, grouped, values = (t.unflatten(1, (k.shape[1], -1)).to(softmax.dtype) for t in (gradient, q, values))
    keys, its_values = (t[:, :, None].to(softmax.dtype) for t in (k, v))
    of_softmax = gradient @ its_values.mT - (gradient * values).sum(-1, keepdim=True)
    of_scores = softmax * of_softmax * q.shape[-1] ** -0.5
    of_q, of_k, of_v = (of_scores @ keys).flatten(1, 2), (of_scores.mT @ grouped).sum(2), (softmax.mT @ gradient).sum(2)
    return of_q.to(q.dtype), of_k.to(k.dtype), of_v.to(v.dtype)


def _scores(q: Tensor, k: Tensor, is_causal: bool) -> Tensor:
    """q kᵀ / √head_dim in single precision or better, (batch, key/value heads, q's heads of each, queries, keys)."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    scores: Tensor = q.unflatten(1, (k.shape[1], -1)).to(dtype) @ k[:, :, None].mT.to(dtype) * q.shape[-1] ** -0.5
    if is_causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    return scores
