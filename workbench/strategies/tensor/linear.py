"""Slices linear layers, alone or in pairs, with torch's DTensor styles (Megatron-LM, Shoeybi et al. 2019)."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, ClassVar, cast

from workbench.plan.communication import ExpectedCommunication
from workbench.plan.layer_groups import ColumnRowPair
from workbench.strategies.tensor.base import Slicing

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor


SEQUENCE_DIM = 1
"""Dim of the sequence in activations (batch, sequence, features)."""


class PairSlicing(Slicing[ColumnRowPair]):
    """The first layer is cut by output features and the second by input features, so that no communication is needed in between.

    One all-reduce of the output forward and one of the gradient of the input backward (samples have none). With sequence
    parallelism each becomes the two halves of an all-reduce (Korthikanti et al. 2022, section 4.2.2): an all-gather of the input
    and a reduce-scatter of the output forward, and the reverse for their gradients backward.
    """

    def check(self) -> None:
        self._must_divide(self.group.width, f"{self.group.width_name} of {self.group.column}")

    def cut(self) -> dict[str, int]:
        pair = self.group
        return {f"{pair.column}.weight": 0, f"{pair.column}.bias": 0, f"{pair.row}.weight": 1}

    def expected(self, num_samples: int, element_bytes: int, axis: str) -> list[ExpectedCommunication]:
        unit = num_samples * element_bytes
        inputs, outputs = unit * prod(self.group.input_shape), unit * prod(self.group.output_shape)
        if self.sequence_parallel:
            return [
                ExpectedCommunication("all_gather", axis, "forward", 1, inputs),
                ExpectedCommunication("reduce_scatter", axis, "forward", 1, outputs),
                ExpectedCommunication("all_gather", axis, "backward", 1, outputs),
                ExpectedCommunication("reduce_scatter", axis, "backward", 1, inputs),
            ]
        forward, backward = (
            ExpectedCommunication("all_reduce", axis, "forward", 1, outputs),
            ExpectedCommunication("all_reduce", axis, "backward", 1, inputs),
        )
        return [forward] if self.group.takes_samples else [forward, backward]

    def apply(self, blocks: nn.Module, mesh: DeviceMesh) -> None:
        from torch.distributed.tensor import Replicate, Shard
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

        between = Shard(SEQUENCE_DIM) if self.sequence_parallel else Replicate()
        columns, rows = ColwiseParallel(input_layouts=between), RowwiseParallel(output_layouts=between)
        assert self.group.column
        assert self.group.row
        parallelize_module(blocks, mesh, {self.group.column: columns, self.group.row: rows})


class AttentionSlicing(PairSlicing):
    """Each worker computes complete attention heads."""

    dims: ClassVar = ("heads",)


class FeedForwardSlicing(PairSlicing):
    """Each worker computes a slice of the features between the two linear layers."""

    dims: ClassVar = ("features",)


class EmbeddingSlicing(Slicing[ColumnRowPair]):
    """An embedding table cut by entries or by features; its weight is (vocabulary, hidden).

    ``vocabulary``: a worker returns zeros for tokens outside its slice; one all-reduce of the output forward. ``hidden``: each
    worker returns a slice of the features of every token; one all-gather of the output forward. Backward needs no communication,
    since tokens have no gradient.

    With sequence parallelism the output of ``vocabulary`` is reduce-scattered forward and its gradient all-gathered backward.
    """

    dims: ClassVar = ("vocabulary", "hidden")

    def check(self) -> None:
        if self.dim == "vocabulary":
            self._must_divide(self.group.width, f"{self.group.width_name} of {self.group.row}")
        else:
            self._must_divide(self.group.output_shape[-1], f"hidden features of {self.group.row}")

    def cut(self) -> dict[str, int]:
        return {f"{self.group.row}.weight": self.dims.index(self.dim)}

    def expected(self, num_samples: int, element_bytes: int, axis: str) -> list[ExpectedCommunication]:
        output = num_samples * element_bytes * prod(self.group.output_shape)
        if self.sequence_parallel:
            return [
                ExpectedCommunication("reduce_scatter", axis, "forward", 1, output),
                ExpectedCommunication("all_gather", axis, "backward", 1, output),
            ]
        operation = "all_reduce" if self.dim == "vocabulary" else "all_gather"
        return [ExpectedCommunication(operation, axis, "forward", 1, output)]

    def apply(self, blocks: nn.Module, mesh: DeviceMesh) -> None:
        from torch.distributed.tensor import Replicate, Shard
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

        from workbench.strategies.tensor.collectives import arrived

        between = Shard(SEQUENCE_DIM) if self.sequence_parallel else Replicate()
        # torch calls the entries of a table rows and their features columns.
        rows = RowwiseParallel(input_layouts=Replicate(), output_layouts=between)
        columns = ColwiseParallel(output_layouts=Replicate())
        assert self.group.row
        parallelize_module(blocks, mesh, {self.group.row: rows if self.dim == "vocabulary" else columns})
        weight = blocks.get_parameter(f"{self.group.row}.weight")
        weight.register_post_accumulate_grad_hook(_keep_local_slice)
        blocks.get_submodule(self.group.row).register_forward_hook(lambda module, inputs, output: arrived(output))
        if self.sequence_parallel:
            self._slice_positions(blocks.get_submodule(self.group.row.rpartition(".")[0]), mesh)

    def _slice_positions(self, embedding: Any, mesh: DeviceMesh) -> None:
        """Restricts the embeddings that are added to the tokens to the worker's part of the sequence."""
        from workbench.strategies.tensor.sequence_parallel import set_local_positions

        if hasattr(embedding, "positions"):
            set_local_positions(embedding, self.group.output_shape[0], mesh)


def _keep_local_slice(parameter: DTensor) -> None:
    """Reduces the gradient of an embedding to the local slice; DTensor leaves the full gradient on every worker (torch 2.13)."""
    gradient = cast("DTensor", parameter.grad)
    parameter.grad = gradient.redistribute(placements=parameter.placements)


class OutputHeadSlicing(Slicing[ColumnRowPair]):
    """A linear projection to the vocabulary, cut by output or input features; its weight is (vocabulary, hidden).

    ``vocabulary``: each worker computes the scores of its entries; one all-gather of the output forward and one all-reduce of the
    gradient of the input backward. ``hidden``: each worker takes a slice of the input and computes partial scores; one all-reduce
    of the output forward and one all-gather of the gradient of the input backward.

    With sequence parallelism ``vocabulary`` all-gathers its input forward and reduce-scatters the gradient of the input backward.
    With a parallel loss its scores are not gathered.
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

    def expected(self, num_samples: int, element_bytes: int, axis: str) -> list[ExpectedCommunication]:
        unit = num_samples * element_bytes
        inputs, outputs = unit * prod(self.group.input_shape), unit * prod(self.group.output_shape)
        forward, backward = ("all_gather", "all_reduce") if self.dim == "vocabulary" else ("all_reduce", "all_gather")
        expected = [] if self.parallel_loss else [ExpectedCommunication(forward, axis, "forward", 1, outputs)]
        if self.sequence_parallel:
            expected, backward = [ExpectedCommunication("all_gather", axis, "forward", 1, inputs), *expected], "reduce_scatter"
        return expected if self.group.takes_samples else [*expected, ExpectedCommunication(backward, axis, "backward", 1, inputs)]

    @property
    def communicates_output(self) -> bool:
        return not self.parallel_loss

    def expected_of_loss(self, num_samples: int, element_bytes: int, axis: str) -> list[ExpectedCommunication]:
        """Returns the communication of the loss of sliced scores in training: of each position the highest score, then the sum of
        exponentials and the target's score, in at least single precision. There is none in backward."""
        positions = num_samples * prod(self.group.output_shape[:-1])
        highest = positions * max(4, element_bytes)
        return [ExpectedCommunication("all_reduce", axis, "forward", 1, size) for size in (highest, 2 * highest)]

    def apply(self, blocks: nn.Module, mesh: DeviceMesh) -> None:
        from torch.distributed.tensor import Replicate, Shard
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

        between = Shard(SEQUENCE_DIM) if self.sequence_parallel else Replicate()
        columns = ColwiseParallel(input_layouts=between, output_layouts=Shard(-1) if self.parallel_loss else Replicate())
        rows = RowwiseParallel(input_layouts=Replicate())
        assert self.group.column
        parallelize_module(blocks, mesh, {self.group.column: columns if self.dim == "vocabulary" else rows})
        blocks.get_submodule(self.group.column).register_forward_hook(_wait_without_backward)


def _wait_without_backward(layer: nn.Module, inputs: Any, outputs: Tensor) -> Tensor:
    """Waits for the all-reduce of the scores if no loss does; otherwise an inference step would end before it."""
    from workbench.torch_private.distributed import AsyncCollectiveTensor

    if isinstance(outputs, AsyncCollectiveTensor) and not outputs.requires_grad:
        waited: Tensor = outputs.wait()
        return waited
    return outputs
