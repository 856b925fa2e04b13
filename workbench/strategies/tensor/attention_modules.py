"""``nn.MultiheadAttention`` cut by heads."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.functional import dropout, linear, pad, scaled_dot_product_attention

from workbench.strategies.tensor.collectives import AnyMesh, copy_to_slices, gather_slices, reduce_parts


def slice_attention(module: nn.Module, mesh: AnyMesh) -> None:
    """Makes a module with sliced parameters compute as ``SlicedAttention``."""
    assert type(module) is nn.MultiheadAttention
    module.__class__ = SlicedAttention
    assert isinstance(module, SlicedAttention)
    module.mesh = mesh
    # nn.TransformerEncoderLayer in eval mode computes with the parameters of its modules, unless one of them has a hook.
    module.register_forward_pre_hook(lambda module, args: None)


class SlicedAttention(nn.MultiheadAttention):
    """A part of the heads of ``nn.MultiheadAttention``, with the same arguments and results. Each worker has these heads' rows of
    the projections to query, key and value, and their columns of the output projection, whose products are summed. The gradient
    of each distinct tensor among query, key and value is all-reduced."""

    mesh: AnyMesh

    def forward(  # the signature is torch's
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Returns the output and, if they are needed, the attention weights, as the whole module does."""
        if query.is_nested:
            raise NotImplementedError("nested tensors are not supported by sliced attention; set enable_nested_tensor=False")
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        is_batched, is_batch_first = query.dim() == 3, self.batch_first or query.dim() == 2
        q, k, v = (self._heads(x, is_batched, is_batch_first) for x in self._projected(query, key, value))
        masks = [self._attention_mask(attn_mask, q), self._padding_mask(key_padding_mask, q)]
        for name in ("bias_k", "bias_v"):
            if (bias := getattr(self, name)) is not None:  # (1, 1, features of the local heads)
                row = _slice(bias).view(1, 1, q.shape[1], -1).transpose(1, 2).expand(q.shape[0], -1, -1, -1)
                k, v = (torch.cat([k, row], 2), v) if name == "bias_k" else (k, torch.cat([v, row], 2))
        if self.add_zero_attn:
            k, v = (pad(x, (0, 0, 0, 1)) for x in (k, v))
        num_others = k.shape[2] - (key.shape[1] if is_batch_first and is_batched else key.shape[0])
        given = [pad(mask, (0, num_others)) for mask in masks if mask is not None]
        mask = sum(given[1:], given[0]) if given else None
        p = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q / q.shape[-1] ** 0.5 @ k.transpose(-2, -1)
            weights = dropout((scores if mask is None else scores + mask).softmax(-1), p, self.training)
            y = weights @ v
        else:
            y = scaled_dot_product_attention(q, k, v, mask, p)
        y = reduce_parts(linear(y.transpose(1, 2).flatten(2), _slice(self.out_proj.weight)), self.mesh)
        y = y if self.out_proj.bias is None else y + self.out_proj.bias
        y = y if is_batch_first else y.transpose(0, 1)
        return y if is_batched else y.squeeze(0), self._whole_weights(weights, average_attn_weights, is_batched)

    def _projected(self, *inputs: Tensor) -> list[Tensor]:
        copies = {id(x): copy_to_slices(x, self.mesh) for x in inputs}
        separate = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        weights = map(_slice, separate) if self.in_proj_weight is None else _slice(self.in_proj_weight).chunk(3)
        biases = (None, None, None) if self.in_proj_bias is None else _slice(self.in_proj_bias).chunk(3)
        return [linear(copies[id(x)], weight, bias) for x, weight, bias in zip(inputs, weights, biases, strict=True)]

    def _heads(self, x: Tensor, is_batched: bool, is_batch_first: bool) -> Tensor:
        """Returns (batch, local heads, positions, features of a head)."""
        x = x if is_batched else x.unsqueeze(0)
        x = x if is_batch_first else x.transpose(0, 1)
        return x.unflatten(-1, (self.num_heads // self.mesh.size(), -1)).transpose(1, 2)

    def _attention_mask(self, mask: Tensor | None, q: Tensor) -> Tensor | None:
        if mask is None:
            return None
        mask = self._added(mask, q)  # (queries, keys), or (batch × heads, queries, keys)
        if mask.dim() == 2:
            return mask
        return mask.unflatten(0, (-1, self.num_heads)).chunk(self.mesh.size(), 1)[self.mesh.get_local_rank()]

    def _padding_mask(self, mask: Tensor | None, q: Tensor) -> Tensor | None:
        return None if mask is None else self._added(mask, q).view(-1, 1, 1, mask.shape[-1])  # (batch, keys)

    def _added(self, mask: Tensor, q: Tensor) -> Tensor:
        """Returns a mask that is added to the scores: of booleans, true hides."""
        if mask.dtype == torch.bool:
            return q.new_zeros(mask.shape).masked_fill(mask, float("-inf"))
        return copy_to_slices(mask, self.mesh)

    def _whole_weights(self, weights: Tensor | None, is_averaged: bool, is_batched: bool) -> Tensor | None:
        if weights is None:
            return None
        heads = reduce_parts(weights.sum(1), self.mesh) / self.num_heads if is_averaged else gather_slices(weights, 1, self.mesh)
        return heads if is_batched else heads.squeeze(0)


def _slice(parameter: Tensor) -> Tensor:
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter
