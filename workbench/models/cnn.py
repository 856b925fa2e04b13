"""A small residual network for images (He et al. 2016): convolutions in stages, mean over the image, linear head."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveInt

from workbench.errors import SpecError
from workbench.models.base import Dropout, Model, model
from workbench.plan.layer_groups import Convolution, ConvolutionBlock, GlobalPool, LayerGroup
from workbench.plan.model_summary import BatchNorm, BlockSummary, ModelSummary, ParameterSummary, linear_parameters
from workbench.plan.parity import BATCH_NORM, BatchDependence
from workbench.spec.options import AppliesIf, Count, ModelOptions

if TYPE_CHECKING:
    from torch import nn

    from workbench.data.base import DatasetSummary


class CNNOptions(ModelOptions):
    name: Literal["cnn"] = "cnn"

    widths: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (16, 32, 64)
    """Number of channels of each stage; each stage after the first halves the height and width."""

    blocks_per_stage: Count = 2
    """Number of residual blocks per stage."""

    norm: Literal["group", "batch"] = "group"
    """Group norm (Wu and He 2018), or batch norm, whose statistics are separate for each microbatch and, without
    sync_batch_norm, for each replica."""

    num_groups: Annotated[PositiveInt, AppliesIf("norm", ("group",))] = 8
    """Number of channel groups of group norm; must divide every width."""

    dropout: Dropout = 0.0
    """Dropout probability of the pooled channels before the head."""


@model("cnn")
class CNN(Model[CNNOptions]):
    """Residual network with two 3 × 3 convolutions per block (ResNet's layout for small images); classifies images."""

    Options = CNNOptions
    default_dataset = "digit_images"
    examples = {
        "": {"model": {"widths": [4, 8], "blocks_per_stage": 1, "num_groups": 4}},
        "batch norm": {"model": {"widths": [4, 8], "blocks_per_stage": 1, "norm": "batch", "dropout": 0.2}},
    }

    def __init__(self, options: CNNOptions, data: DatasetSummary) -> None:
        data.require("cnn", {"images": ("class",)}, "digit_images or synthetic")
        uneven = [width for width in options.widths if width % options.num_groups]
        if options.norm == "group" and uneven:
            raise SpecError("model.num_groups", f"{uneven[0]} channels are not divisible into {options.num_groups} groups")
        super().__init__(options, data)

    @property
    def batch_dependence(self) -> BatchDependence | None:
        remedy = 'set model.norm = "group", or split.data.sync_batch_norm = true without microbatches or accumulation steps'
        return replace(BATCH_NORM, remedy=remedy) if self.options.norm == "batch" else None

    def _trunk(self) -> dict[str, tuple[Convolution, ...]]:
        """Returns the convolutions of each block; of a residual block the first, the second and, if the shape changes, that of
        the shortcut."""
        o, (channels, height, width) = self.options, self.data.input_shape
        groups = o.num_groups if o.norm == "group" else None

        def convolution(path: str, shape: tuple[int, ...], out: int, kernel: int, stride: int) -> Convolution:
            padding = kernel // 2
            return Convolution(path, f"{path}_norm", shape[0], out, kernel, stride, padding, shape[1], shape[2], groups)

        stem = convolution("stem.convolution", (channels, height, width), o.widths[0], 3, 1)
        trunk: dict[str, tuple[Convolution, ...]] = {"stem": (stem,)}
        shape = stem.output_shape
        for stage, out in enumerate(o.widths):
            for index in range(o.blocks_per_stage):
                block, stride = f"layer{len(trunk) - 1}", 2 if stage and not index else 1
                first = convolution(f"{block}.first", shape, out, 3, stride)
                second = convolution(f"{block}.second", first.output_shape, out, 3, 1)
                trunk[block] = (first, second)
                if first.output_shape != shape:
                    trunk[block] += (convolution(f"{block}.shortcut", shape, out, 1, stride),)
                shape = second.output_shape
        return trunk

    def summary(self) -> ModelSummary:
        blocks, groups, classes = [], list[LayerGroup](), self.data.num_classes
        shape: tuple[int, ...] = self.data.input_shape
        for block, convolutions in self._trunk().items():
            parameters = tuple(p for c in convolutions for p in _parameters(c))
            shape = convolutions[0 if block == "stem" else 1].output_shape
            blocks.append(BlockSummary(block, parameters, shape, sum(c.forward_flops for c in convolutions)))
            groups.append(ConvolutionBlock("convolution", "stem" if block == "stem" else "residual", convolutions))
        channels, height, width = shape
        head = linear_parameters("head.projection", channels, classes)
        blocks.append(BlockSummary("head", head, (classes,), 2 * channels * classes))
        groups.append(GlobalPool("convolution", "head.pool", (channels, height, width)))
        normalized = chain.from_iterable(self._trunk().values()) if self.options.norm == "batch" else ()
        norms = tuple(BatchNorm(c.norm_path, c.out_channels) for c in normalized)
        return ModelSummary(self.name, tuple(blocks), tuple(groups), batch_norms=norms)

    def build_block(self, block: str) -> nn.Module:
        from workbench.models.cnn_modules import Head, ResidualBlock, Stem

        if block == "head":
            return Head(self.options.widths[-1], self.data.num_classes, self.options.dropout)
        convolutions = self._trunk()[block]
        return Stem(*convolutions) if block == "stem" else ResidualBlock(*convolutions)


def _parameters(c: Convolution) -> tuple[ParameterSummary, ...]:
    return (
        ParameterSummary(f"{c.path}.weight", (c.out_channels, c.in_channels, c.kernel, c.kernel)),
        ParameterSummary(f"{c.norm_path}.weight", (c.out_channels,)),
        ParameterSummary(f"{c.norm_path}.bias", (c.out_channels,)),
    )
