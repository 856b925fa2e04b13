"""A mixture of experts: the transformer with several feed-forward networks (experts) per layer, of which every token uses
some."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from workbench.errors import SpecError
from workbench.models.base import model
from workbench.models.layer_formulas import Part
from workbench.models.presets import MOE
from workbench.models.transformer import SHORT_TEXT, SMALL, Transformer, TransformerOptions
from workbench.plan.model_summary import BlockSummary, Mixture, ParameterSummary
from workbench.plan.parity import BatchDependence
from workbench.spec.options import Count

if TYPE_CHECKING:
    from torch import nn

    from workbench.data.base import DatasetSummary
    from workbench.plan.model_summary import ModelSummary


class MoEOptions(TransformerOptions):
    presets: ClassVar = MOE

    name: Literal["moe"] = "moe"  # type: ignore[assignment]

    num_experts: Count = 4
    """Number of experts per layer."""

    top_k: PositiveInt = 2
    """Number of experts per token; at most num_experts."""

    capacity_factor: PositiveFloat | None = None
    """Capacity of an expert per forward pass, as a multiple of an equal share; other tokens are dropped. None: no limit."""

    router_loss_weight: NonNegativeFloat = 0.01
    """Weight of the load-balancing loss, whose gradients are added to those of the cross-entropy."""


@model("moe")
class MoE(Transformer[MoEOptions]):
    """Transformer with a mixture of experts instead of the feed-forward network in each layer (Mixtral's layout)."""

    Options = MoEOptions
    examples = {
        "": {"model": {**SMALL, "num_experts": 4, "top_k": 2}, "dataset": SHORT_TEXT},
        "dropping": {
            "model": {**SMALL, "num_experts": 4, "top_k": 1, "capacity_factor": 1.0, "feedforward": "gated",
                      "router_loss_weight": 0.1, "dropout": 0.1},
            "dataset": SHORT_TEXT,
        },
    }  # fmt: skip

    def __init__(self, options: MoEOptions, data: DatasetSummary) -> None:
        if options.top_k > options.num_experts:
            raise SpecError("model.top_k", f"{options.top_k} exceeds num_experts = {options.num_experts}")
        super().__init__(options, data)

    def kept_bytes(self, held: BlockSummary, positions: int | None, element_bytes: int, checkpointing: str) -> int | None:
        return None  # the router decides how many tokens an expert receives

    @property
    def has_cache(self) -> bool:
        # With a capacity, which tokens are dropped depends on all tokens of the forward pass.
        return self.options.capacity_factor is None

    @property
    def batch_dependence(self) -> BatchDependence | None:
        o, causes, remedies = self.options, [], []
        if o.capacity_factor is not None:
            causes.append("the capacity of an expert is a share of the tokens of each shard")
            remedies.append("remove model.capacity_factor")
        if o.router_loss_weight and o.num_experts > 1:
            causes.append("the load-balancing loss of the router is computed over the tokens of each shard")
            remedies.append("set model.router_loss_weight = 0")
        return BatchDependence(" and ".join(causes), " and ".join(remedies)) if causes else None

    def summary(self) -> ModelSummary:
        # The statistics of a router cover its whole batch; a part of the sequence would have different ones.
        o, shape = self.options, self.shape
        mixtures = tuple(
            Mixture(f"layer{i}.feedforward", o.num_experts, shape.sequence, o.top_k, shape.hidden_dim, o.capacity_factor)
            for i in range(o.num_layers)
        )
        return replace(super().summary(), sequence_length=None, mixtures=mixtures)

    def feedforward(self, name: str) -> Part:
        """Returns the router and top_k experts per token (Fedus et al. 2021, section 2), without dropped tokens. Experts are
        stacked on dim 0."""
        one, num_experts = self.shape.feedforward(f"{name}.experts"), self.options.num_experts
        router = ParameterSummary(f"{name}.router.weight", (num_experts, self.shape.hidden_dim))
        experts = (ParameterSummary(p.name, (num_experts, *p.shape)) for p in one.parameters)
        routing_flops = 2 * self.shape.sequence * self.shape.hidden_dim * num_experts
        return Part((router, *experts), routing_flops + self.options.top_k * one.forward_flops, ())

    def build_feedforward(self) -> nn.Module:
        from workbench.models.moe_modules import Experts, MixtureOfExperts, Router

        o = self.options
        router = Router(o.hidden_dim, o.num_experts, o.top_k, o.router_loss_weight)
        experts = Experts(o.num_experts, o.hidden_dim, o.feedforward_dim, o.feedforward, bias=o.bias)
        return MixtureOfExperts(router, experts, o.capacity_factor)
