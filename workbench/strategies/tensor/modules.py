"""Slices modules of a user's model, as its tensor plan says."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, ClassVar

from workbench.errors import SplitError
from workbench.plan.communication import ExpectedCommunication
from workbench.plan.tensor_plan import ModuleSlices, SliceCommunication
from workbench.strategies.tensor.base import Slicing

if TYPE_CHECKING:
    from collections.abc import Sequence

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

    @property
    def stored_order(self) -> dict[str, tuple[int, tuple[range, ...]]]:
        return {p.name: (p.dim, _ranges(p.sections, self.size)) for p in self.group.parameters if p.sections}

    def expected(self, num_samples: int, element_bytes: int, axis: str) -> list[ExpectedCommunication]:
        return _of_pass(self.group.communication, num_samples, element_bytes, axis)

    def expected_of_recomputation(self, num_samples: int, element_bytes: int, axis: str) -> list[ExpectedCommunication]:
        """Returns what activation checkpointing adds in backward."""
        return _of_pass(self.group.repeated, num_samples, element_bytes, axis)

    def apply(self, blocks: nn.Module, mesh: DeviceMesh) -> None:
        from workbench.strategies.tensor.sliced_modules import cut_modules

        cut_modules(blocks.code, [self.group], lambda group: mesh)  # type: ignore[arg-type]  # blocks of a user's module


def _of_pass(
    communication: Sequence[SliceCommunication], num_samples: int, element_bytes: int, axis: str
) -> list[ExpectedCommunication]:
    return [
        ExpectedCommunication(c.operation, axis, c.phase, count, c.elements * num_samples * element_bytes)
        for c, count in Counter(communication).items()
    ]


def _ranges(sections: Sequence[int], size: int) -> tuple[range, ...]:
    """Returns the ranges of each worker's slices: of the first worker that of each section, then those of the second."""
    starts = [sum(sections[:index]) for index in range(len(sections))]
    return tuple(
        range(start + rank * length // size, start + (rank + 1) * length // size)
        for rank in range(size)
        for start, length in zip(starts, sections, strict=True)
    )
