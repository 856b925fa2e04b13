"""Slicing of linear layers, alone or in pairs, with torch's own DTensor styles (Megatron-LM, Shoeybi et al. 2019)."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, ClassVar, cast

from workbench.plan.layer_groups import ColumnRowPair
from workbench.plan.transfer import Transfer
from workbench.strategies.slicing.base import Slicing

if TYPE_CHECKING:
    from torch import nn
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor


class PairSlicing(Slicing[ColumnRowPair]):
    """The first layer is cut by output features, the second by input features, so that nothing moves between them.

    One all-reduce of the pair's output forward, one of its input's gradient backward.
    """

    def check(self) -> None:
        self._must_divide(self.group.width, f"{self.group.width_name} of {self.group.column}")

    def cut(self) -> dict[str, int]:
        pair = self.group
        return {f"{pair.column}.weight": 0, f"{pair.column}.bias": 0, f"{pair.row}.weight": 1}

    def transfers(self, num_samples: int, element_bytes: int, axis: str) -> list[Transfer]:
        unit = num_samples * element_bytes
        return [
            Transfer("all_reduce", axis, "forward", 1, unit * prod(self.group.output_shape)),
            Transfer("all_reduce", axis, "backward", 1, unit * prod(self.group.input_shape)),
        ]

    def apply(self, blocks: nn.Module, mesh: DeviceMesh) -> None:
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

        assert self.group.column
        assert self.group.row
        parallelize_module(blocks, mesh, {self.group.column: ColwiseParallel(), self.group.row: RowwiseParallel()})


class AttentionSlicing(PairSlicing):
    """Each worker computes whole attention heads."""

    dims: ClassVar = ("heads",)


class FeedForwardSlicing(PairSlicing):
    """Each worker computes a part of the features between the two linear maps."""

    dims: ClassVar = ("features",)


class EmbeddingSlicing(Slicing[ColumnRowPair]):
    """A table of embeddings cut by its entries or by their features; its weight is (vocabulary, hidden).

    ``vocabulary``: a worker gives zeros for tokens that are not its own; one all-reduce of the output forward.
    ``hidden``: each worker gives a slice of every token's features; one all-gather of the output forward. Neither needs
    anything backward, for tokens have no gradient.
    """

    dims: ClassVar = ("vocabulary", "hidden")

    def check(self) -> None:
        if self.dim == "vocabulary":
            self._must_divide(self.group.width, f"{self.group.width_name} of {self.group.row}")
        else:
            self._must_divide(self.group.output_shape[-1], f"hidden features of {self.group.row}")

    def cut(self) -> dict[str, int]:
        return {f"{self.group.row}.weight": self.dims.index(self.dim)}

    def transfers(self, num_samples: int, element_bytes: int, axis: str) -> list[Transfer]:
        operation = "all_reduce" if self.dim == "vocabulary" else "all_gather"
        output = num_samples * element_bytes * prod(self.group.output_shape)
        return [Transfer(operation, axis, "forward", 1, output)]

    def apply(self, blocks: nn.Module, mesh: DeviceMesh) -> None:
        from torch.distributed.tensor import Replicate
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

        # torch calls rows what is looked up and columns what comes out.
        rows, columns = RowwiseParallel(input_layouts=Replicate()), ColwiseParallel(output_layouts=Replicate())
        assert self.group.row
        parallelize_module(blocks, mesh, {self.group.row: rows if self.dim == "vocabulary" else columns})
        weight = blocks.get_parameter(f"{self.group.row}.weight")
        weight.register_post_accumulate_grad_hook(_keep_own_slice)


def _keep_own_slice(parameter: DTensor) -> None:
    """DTensor leaves an embedding's gradient whole on every worker (torch 2.13); each needs its slice of it."""
    gradient = cast("DTensor", parameter.grad)
    parameter.grad = gradient.redistribute(placements=parameter.placements)


class HeadSlicing(Slicing[ColumnRowPair]):
    """A linear map to the vocabulary cut by what it gives or by what it takes; its weight is (vocabulary, hidden).

    ``vocabulary``: each worker gives the scores of its entries; one all-gather of the output forward and one all-reduce
    of the input's gradient backward. ``hidden``: each takes a slice of the input and gives a part of every score; one
    all-reduce of the output forward and one all-gather of the input's gradient backward.
    """

    dims: ClassVar = ("vocabulary", "hidden")

    def check(self) -> None:
        if self.dim == "vocabulary":
            self._must_divide(self.group.width, f"{self.group.width_name} of {self.group.column}")
        else:
            self._must_divide(self.group.input_shape[-1], f"hidden features of {self.group.column}")

    def cut(self) -> dict[str, int]:
        weight = f"{self.group.column}.weight"
        return {weight: 0, f"{self.group.column}.bias": 0} if self.dim == "vocabulary" else {weight: 1}

    def transfers(self, num_samples: int, element_bytes: int, axis: str) -> list[Transfer]:
        unit = num_samples * element_bytes
        forward, backward = ("all_gather", "all_reduce") if self.dim == "vocabulary" else ("all_reduce", "all_gather")
        return [
            Transfer(forward, axis, "forward", 1, unit * prod(self.group.output_shape)),
            Transfer(backward, axis, "backward", 1, unit * prod(self.group.input_shape)),
        ]

    def apply(self, blocks: nn.Module, mesh: DeviceMesh) -> None:
        from torch.distributed.tensor import Replicate
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

        columns, rows = ColwiseParallel(output_layouts=Replicate()), RowwiseParallel(input_layouts=Replicate())
        assert self.group.column
        parallelize_module(blocks, mesh, {self.group.column: columns if self.dim == "vocabulary" else rows})
