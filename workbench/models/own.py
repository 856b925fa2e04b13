"""The shortest way to a model of one's own: its modules alone; what a planner must know of them is found out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from workbench.errors import SpecError
from workbench.models.base import Model
from workbench.plan.layer_groups import LayerGroup
from workbench.plan.summary import BatchNorm, BlockSummary, ModelSummary, ParameterSummary
from workbench.spec.options import ModelOptions

if TYPE_CHECKING:
    from torch import nn

O = TypeVar("O", bound=ModelOptions)
_BATCH = 2  # batch norm takes no single sample


class OwnModel(Model[O]):
    """A model whose summary is made by passing samples without data through its blocks on torch's ``meta`` device.

    A subclass gives ``blocks``, its ``default_dataset``, and where it has options of its own, ``Options``.
    """

    Options = ModelOptions

    @abstractmethod
    def blocks(self) -> Mapping[str, Callable[[], nn.Module]]:
        """Of each block by its name, in order, what makes it: a worker makes none but its own. Each takes and returns one
        tensor (batch, …); ``self.data`` has the shapes of the samples."""

    def groups(self) -> tuple[LayerGroup, ...]:
        """Layers that tensor slicing can cut; none unless said."""
        return ()

    def build_block(self, block: str) -> nn.Module:
        return self.blocks()[block]()

    def summary(self) -> ModelSummary:
        return self._summary

    @cached_property
    def _summary(self) -> ModelSummary:
        import torch
        from torch.nn.modules.batchnorm import _BatchNorm
        from torch.utils.flop_counter import FlopCounterMode

        dtype = torch.int64 if self.data.kind == "tokens" else torch.float32
        passed = torch.zeros((_BATCH, *self.data.input_shape), dtype=dtype, device="meta")
        blocks, norms = [], []
        for name, make in self.blocks().items():
            if isinstance(make, torch.nn.Module):
                raise SpecError("model.name", f"{self.name} gives block {name!r} as a module; give what makes it: lambda: …")
            with torch.device("meta"):
                module = make()
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                passed = module(passed)
            parameters = tuple(ParameterSummary(f"{name}.{key}", tuple(p.shape)) for key, p in module.named_parameters())
            flops = counter.get_total_flops() // _BATCH
            for key, layer in module.named_modules(prefix=name):
                norms += [BatchNorm(key, layer.num_features)] if isinstance(layer, _BatchNorm) else []
            blocks.append(BlockSummary(name, parameters, tuple(passed.shape[1:]), flops))
        return ModelSummary(self.name, tuple(blocks), self.groups(), batch_norms=tuple(norms))
