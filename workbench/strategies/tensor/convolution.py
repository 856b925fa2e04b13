"""Slices a residual convolutional network by channels, or by rows of the images with an exchange of halos."""

from __future__ import annotations

from itertools import chain
from math import prod
from typing import TYPE_CHECKING, ClassVar

from workbench.errors import SplitError
from workbench.plan.communication import ExpectedCommunication
from workbench.plan.layer_groups import Convolution, ConvolutionBlock, GlobalPool
from workbench.strategies.tensor.base import Slicing
from workbench.strategies.tensor.row_split import RowSplit

if TYPE_CHECKING:
    from torch import nn
    from torch.distributed.device_mesh import DeviceMesh

DIMS = ("channels", "output_channels", "input_channels", "rows")


class ConvolutionSlicing(Slicing[ConvolutionBlock]):
    """The convolutions of one block. Communication of one forward and backward pass, by cut:

    - ``channels``: a residual block's first convolution is cut by output channels, its second by input channels, the
      norm between along with them. One all-reduce of the second's output forward, one of the block's input's gradient
      backward. The stem and shortcuts are whole on every worker.
    - ``output_channels``: every convolution by output channels. All-gather of each output forward, all-reduce of each
      input's gradient backward, except that images have none.
    - ``input_channels``: every convolution by input channels, except the stem, which stays whole (an image has one or
      three). All-reduce of each output forward, all-gather of each input's gradient backward.
    - ``rows``: each worker has some rows of every image; weights are whole. Each convolution but the stem's sends halos
      forward and their gradients back. Each norm all-reduces two sums per group of channels and sample (batch norm: per
      channel) forward and their gradients backward. The gradient of every weight is all-reduced.
    """

    dims: ClassVar = DIMS

    @property
    def keeps_block_shapes(self) -> bool:
        return self.dim != "rows"

    @property
    def _sliced(self) -> tuple[Convolution, ...]:
        """Returns the convolutions that are computed in slices."""
        if self.group.role == "stem":
            return self.group.convolutions if self.dim in ("output_channels", "rows") else ()
        return self.group.convolutions[:2] if self.dim == "channels" else self.group.convolutions

    def _rows(self, c: Convolution) -> RowSplit:
        return RowSplit(c.height, c.kernel, c.stride, c.padding, self.size)

    def check(self) -> None:
        for c in self._sliced:
            if self.dim == "rows":
                _enough_rows(c.output_shape[1], c.path, self.size)
            elif self.dim == "input_channels":
                self._must_divide(c.in_channels, f"input channels of {c.path}")
            else:
                self._must_divide(c.out_channels, f"output channels of {c.path}")
        if self.dim == "channels" and self._sliced and (groups := self._sliced[0].norm_groups):
            self._must_divide(groups, f"norm groups of {self._sliced[0].norm_path}")

    def cut(self) -> dict[str, int]:
        if self.dim == "rows" or not self._sliced:
            return {}
        if self.dim == "channels":
            first, second = self._sliced
            norm = {f"{first.norm_path}.weight": 0, f"{first.norm_path}.bias": 0}
            return {f"{first.path}.weight": 0, **norm, f"{second.path}.weight": 1}
        return {f"{c.path}.weight": 0 if self.dim == "output_channels" else 1 for c in self._sliced}

    def expected(self, num_samples: int, element_bytes: int, axis: str) -> list[ExpectedCommunication]:
        unit = num_samples * element_bytes
        if self.dim == "rows":
            each = (self._expected_of_rows(c, num_samples, element_bytes, axis) for c in self._sliced)
            return list(chain.from_iterable(each))
        forward, backward = {
            "channels": ("all_reduce", "all_reduce"),
            "output_channels": ("all_gather", "all_reduce"),
            "input_channels": ("all_reduce", "all_gather"),
        }[self.dim]
        inputs = outputs = self._sliced
        if self.dim == "channels":
            inputs, outputs = inputs[:1], outputs[1:]
        if self.group.role == "stem":
            inputs = ()
        return [ExpectedCommunication(forward, axis, "forward", 1, unit * prod(c.output_shape)) for c in outputs] + [
            ExpectedCommunication(backward, axis, "backward", 1, unit * prod(c.input_shape)) for c in inputs
        ]

    def _expected_of_rows(self, c: Convolution, num_samples: int, element_bytes: int, axis: str) -> list[ExpectedCommunication]:
        expected = []
        if self.group.role != "stem":
            row = num_samples * c.in_channels * c.width * element_bytes
            for rows in self._rows(c).halos().values():
                expected += [ExpectedCommunication("send", axis, phase, 1, len(rows) * row) for phase in ("forward", "backward")]
        statistics = 2 * (num_samples * c.norm_groups if c.norm_groups else c.out_channels) * element_bytes
        expected += [ExpectedCommunication("all_reduce", axis, phase, 1, statistics) for phase in ("forward", "backward")]
        weight = c.out_channels * c.in_channels * c.kernel**2 * element_bytes
        return [
            *expected,
            ExpectedCommunication("all_reduce", axis, "backward", 1, weight),
            ExpectedCommunication(
                "all_reduce", axis, "backward", 2, c.out_channels * element_bytes
            ),  # the norm's weight and bias
        ]

    def apply(self, blocks: nn.Module, mesh: DeviceMesh) -> None:
        from torch import nn

        from workbench.strategies.tensor.channel_layers import InputChannels, OutputChannels, sliced_norm
        from workbench.strategies.tensor.row_layers import RowConvolution, RowStem, row_norm

        for index, c in enumerate(self._sliced):
            layer, norm = blocks.get_submodule(c.path), blocks.get_submodule(c.norm_path)
            assert isinstance(layer, nn.Conv2d)
            new: nn.Module
            if self.dim == "rows":
                new = (RowStem if self.group.role == "stem" else RowConvolution)(layer, self._rows(c), mesh)
                norm = row_norm(norm, c.output_shape[1], mesh)
            elif self.dim == "output_channels":
                new = OutputChannels(layer, mesh, gather=True)
            elif self.dim == "input_channels":
                new = InputChannels(layer, mesh, input_is_slice=False)
            elif index == 0:
                new, norm = OutputChannels(layer, mesh, gather=False), sliced_norm(norm, mesh)
            else:
                new = InputChannels(layer, mesh, input_is_slice=True)
            blocks.set_submodule(c.path, new)
            blocks.set_submodule(c.norm_path, norm)


class PoolSlicing(Slicing[GlobalPool]):
    """The final mean over the image. With ``rows``: one all-reduce of the sums over local rows (batch, channels) forward, nothing
    backward; later layers are replicated. With other dims it receives full images."""

    dims: ClassVar = DIMS

    def check(self) -> None:
        if self.dim == "rows":
            _enough_rows(self.group.input_shape[1], self.group.path, self.size)

    def cut(self) -> dict[str, int]:
        return {}

    def expected(self, num_samples: int, element_bytes: int, axis: str) -> list[ExpectedCommunication]:
        if self.dim != "rows":
            return []
        return [ExpectedCommunication("all_reduce", axis, "forward", 1, num_samples * self.group.input_shape[0] * element_bytes)]

    def apply(self, blocks: nn.Module, mesh: DeviceMesh) -> None:
        from workbench.strategies.tensor.row_layers import RowPool

        if self.dim == "rows":
            blocks.set_submodule(self.group.path, RowPool(self.group.input_shape[1], mesh))


def _enough_rows(height: int, path: str, size: int) -> None:
    """Checks that every worker has a row."""
    if height < size:
        raise SplitError(
            "split.tensor.size",
            f"{path} has {height} rows, too few for {size} workers; use at most {height}, larger images or fewer stages",
        )
