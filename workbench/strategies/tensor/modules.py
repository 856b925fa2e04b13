"""Slices modules of a user's model, as its tensor plan says."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, ClassVar

from workbench.errors import SplitError
from workbench.plan.communication import ExpectedCommunication
from workbench.plan.tensor_plan import ModuleSlices
from workbench.strategies.tensor.base import Slicing

if TYPE_CHECKING:
    from torch import nn
    from torch.distributed.device_mesh import DeviceMesh


class ModuleSlicing(Slicing[ModuleSlices]):
    """The module's own code runs between the layers that are cut: by columns first, by rows last (``sliced_modules.py``). What it
    communicates was counted when the plan was verified."""

    dims: ClassVar = ("plan",)

    @property
    def keeps_block_shapes(self) -> bool:
        return len(self.group.blocks) == 1

    def check(self) -> None:
        if self.group.units % self.size:
            raise SplitError(
                "split.tensor.size",
                f"{self.group.modules[0].path} can be cut into divisors of {self.group.units} parts, but got {self.size}",
            )

    def cut(self) -> dict[str, int]:
        return {parameter.name: parameter.dim for parameter in self.group.parameters}

    def expected(self, num_samples: int, element_bytes: int, axis: str) -> list[ExpectedCommunication]:
        return [
            ExpectedCommunication(c.operation, axis, c.phase, count, c.elements * num_samples * element_bytes)
            for c, count in Counter(self.group.communication).items()
        ]

    def apply(self, blocks: nn.Module, mesh: DeviceMesh) -> None:
        from workbench.strategies.tensor.sliced_modules import cut_modules

        cut_modules(blocks.code, [self.group], lambda group: mesh)  # type: ignore[arg-type]  # blocks of a user's module
