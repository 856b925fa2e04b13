"""The torch modules of a mixture of experts: router → dispatch to the experts → combination."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from workbench.models.transformer_modules import ACTIVATIONS, INITIAL_STD
from workbench.torch_private.autograd import backward_id


class AddLossGradient(torch.autograd.Function):
    """Returns an activation unchanged; in backward an auxiliary loss gets the gradient 1, independent of the scale of the
    activation's gradient (Megatron-LM's MoEAuxLossAutoScaler). To average over pieces of a batch, gradients must therefore be
    divided afterwards instead of scaling the loss."""

    @staticmethod
    def forward(ctx: Any, activation: Tensor, loss: Tensor) -> Tensor:
        return activation.view_as(activation)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, gradient.new_ones(())


class Router(nn.Module):
    """Selects the experts of each token: (tokens, hidden) → experts and their weights, both (tokens, top_k)."""

    def __init__(self, hidden_dim: int, num_experts: int, top_k: int, loss_weight: float) -> None:
        super().__init__()
        self.top_k, self.loss_weight = top_k, loss_weight
        self.weight = nn.Parameter(torch.empty(num_experts, hidden_dim))
        nn.init.normal_(self.weight, std=INITIAL_STD)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        probabilities = linear(tokens, self.weight).softmax(dim=-1)  # (tokens, experts)
        weights, experts = probabilities.topk(self.top_k, dim=-1)
        if self.top_k > 1:  # with one expert the normalized weight would be 1, without a gradient for the router
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return experts, AddLossGradient.apply(weights, self.loss_weight * balance_loss(probabilities, experts))


def balance_loss(probabilities: Tensor, experts: Tensor) -> Tensor:
    """Returns num_experts × Σ (share of assignments) × (mean probability) over experts, which is 1 for an even distribution
    (Fedus et al. 2021, eq. 4–6).

    Args:
        probabilities: (tokens, experts).
        experts: Selected experts, (tokens, top_k).
    """
    num_experts = probabilities.shape[1]
    shares = torch.bincount(experts.flatten(), minlength=num_experts) / experts.numel()
    return num_experts * (shares.to(probabilities.dtype) @ probabilities.mean(dim=0))


class Experts(nn.Module):
    """Feed-forward networks with stacked parameters (experts, …): a slice of dim 0 is a subset of the experts."""

    def __init__(
        self, num_experts: int, hidden_dim: int, feedforward_dim: int, kind: Literal["gelu", "gated"], *, bias: bool
    ) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[kind]
        self.up = StackedLinear(num_experts, hidden_dim, feedforward_dim * (2 if kind == "gated" else 1), bias=bias)
        self.down = StackedLinear(num_experts, feedforward_dim, hidden_dim, bias=bias)

    def forward(self, tokens: Tensor, counts: list[int]) -> Tensor:
        """Maps (assignments, hidden) to the same shape: the first ``counts[0]`` rows by the first local expert, and so on."""
        return self.down(self.activation(self.up(tokens, counts)), counts)


class StackedLinear(nn.Module):
    """Several ``nn.Linear`` of one shape with stacked parameters, initialized like them."""

    def __init__(self, num_experts: int, in_features: int, out_features: int, *, bias: bool) -> None:
        super().__init__()
        bound = 1 / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.empty(num_experts, out_features, in_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(num_experts, out_features).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Tensor, counts: list[int]) -> Tensor:
        return self.product(x, counts, self.weight, self.bias)

    @staticmethod
    def product(x: Tensor, counts: list[int], weight: Tensor, bias: Tensor | None) -> Tensor:
        """Multiplies the first ``counts[0]`` rows of x by the first weight and adds the first bias, and so on."""
        biases = [None] * len(counts) if bias is None else bias.unbind()
        return torch.cat([linear(*part) for part in zip(x.split(counts), weight.unbind(), biases, strict=True)])


Dispatch = Callable[[Experts, Tensor, list[int]], Tensor]
"""``dispatch(experts, tokens, counts)`` returns the outputs, in the same order, of tokens (assignments, hidden) that are sorted
by expert, ``counts[e]`` of them for expert e of all experts."""


def dispatch_locally(experts: Experts, tokens: Tensor, counts: list[int]) -> Tensor:
    """Applies the experts if this worker holds all of them."""
    return experts(tokens, counts)


class MixtureOfExperts(nn.Module):
    """Weighted sum of the outputs of each token's experts, (…, hidden) → (…, hidden)."""

    def __init__(self, router: Router, experts: Experts, capacity_factor: float | None) -> None:
        super().__init__()
        self.router, self.experts, self.capacity_factor = router, experts, capacity_factor
        self.dispatch: Dispatch = dispatch_locally
        """Dispatch function; expert parallelism replaces it by one that sends tokens to the workers of their experts."""
        self.dropped = 0
        """Number of assignments beyond the capacity of an expert, since the caller last reset it."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, -2)
        experts, weights = self.router(tokens)
        num_experts, top_k = len(self.router.weight), experts.shape[1]
        order = experts.flatten().argsort(stable=True)  # assignments (token, choice) by expert, in token order per expert
        counts = torch.bincount(experts.flatten(), minlength=num_experts)
        if self.capacity_factor is not None:
            capacity = math.ceil(self.capacity_factor * experts.numel() / num_experts)
            starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
            places = (
                torch.arange(len(order), device=order.device) - starts
            )  # position of each assignment in the queue of its expert
            order = order[places < capacity]
            counts = counts.clamp(max=capacity)
            if backward_id() is None:  # in backward, activation checkpointing computes this again
                self.dropped += experts.numel() - len(order)
        token = order // top_k
        outputs = self.dispatch(self.experts, tokens[token], counts.tolist())
        weighted = outputs * weights.flatten()[order, None]
        return torch.zeros_like(tokens).index_add(0, token, weighted).view_as(x)
