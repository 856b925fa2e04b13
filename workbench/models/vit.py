"""The vision transformer (Dosovitskiy et al. 2021): the patches of an image are the positions of a transformer."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import PositiveInt

from workbench.errors import SpecError
from workbench.models.base import Dropout, Model, model
from workbench.models.layer_formulas import LayerShape
from workbench.models.presets import VIT
from workbench.plan.layer_groups import ColumnRowPair
from workbench.plan.model_summary import BlockSummary, ModelSummary, ParameterSummary, linear_parameters
from workbench.spec.options import Count, ModelOptions

if TYPE_CHECKING:
    from torch import nn

    from workbench.data.base import DatasetSummary


class ViTOptions(ModelOptions):
    presets: ClassVar = VIT

    name: Literal["vit"] = "vit"

    patch_size: PositiveInt = 4
    """Side length of a patch in pixels; must divide the height and width of the images."""

    num_layers: Count = 4
    """Number of encoder layers."""

    hidden_dim: PositiveInt = 128
    """Number of features per position."""

    num_heads: PositiveInt = 4
    """Number of attention heads; must divide hidden_dim."""

    feedforward_dim: PositiveInt = 512
    """Number of features inside the feed-forward network of each layer."""

    dropout: Dropout = 0.0
    """Dropout probability of the embedding and of the outputs of attention and the feed-forward network; attention weights have
    no dropout."""

    pooling: Literal["class", "mean"] = "class"
    """Input of the head: the output of a learned class token, or the mean over the patches."""


_SMALL = {"num_layers": 2, "hidden_dim": 16, "num_heads": 2, "feedforward_dim": 32}


@model("vit")
class ViT(Model[ViTOptions]):
    """Vision transformer: patch embedding, pre-norm encoder layers, linear head; classifies images."""

    Options = ViTOptions
    default_dataset = {"name": "synthetic", "kind": "images"}
    examples = {
        "": {"model": {**_SMALL, "patch_size": 2}, "dataset": "digit_images"},
        "pooling": {"model": {**_SMALL, "patch_size": 4, "pooling": "mean", "dropout": 0.1}, "dataset": "digit_images"},
    }

    def __init__(self, options: ViTOptions, data: DatasetSummary) -> None:
        data.require("vit", {"images": ("class",)}, "synthetic with kind = images")
        o, (channels, height, width), patch = options, data.input_shape, options.patch_size
        if height % patch or width % patch:
            raise SpecError("model.patch_size", f"{height} × {width} pixels are not divisible into patches of {patch} × {patch}")
        self.patch_features = channels * patch * patch
        sequence = height // patch * (width // patch) + (o.pooling == "class")
        self.shape = LayerShape(sequence, o.hidden_dim, o.num_heads, o.num_heads, o.feedforward_dim)
        self.shape.check_heads()
        super().__init__(options, data)

    def summary(self) -> ModelSummary:
        o, classes = self.options, self.data.num_classes
        hidden, shape = o.hidden_dim, self.shape.shape
        class_token = (ParameterSummary("embedding.class_token", (hidden,)),) if o.pooling == "class" else ()
        embedding = (
            *class_token,
            ParameterSummary("embedding.position", shape),
            *linear_parameters("embedding.patch", self.patch_features, hidden),
        )
        num_patches = shape[0] - len(class_token)
        names = [f"layer{i}" for i in range(o.num_layers)]
        layers = [self.shape.layer(name, self.shape.feedforward(f"{name}.feedforward")) for name in names]
        head = (*self.shape.norm("head.norm"), *linear_parameters("head.projection", hidden, classes))
        blocks = (
            BlockSummary("embedding", embedding, shape, 2 * num_patches * self.patch_features * hidden),
            *(block for block, _ in layers),
            BlockSummary("head", head, (classes,), 2 * hidden * classes),
        )
        groups = (
            *(group for _, groups in layers for group in groups),
            ColumnRowPair("head", "head.projection", None, classes, "classes", (hidden,), (classes,)),
        )
        return ModelSummary(self.name, blocks, groups)

    def build_block(self, block: str) -> nn.Module:
        from workbench.models.transformer_modules import Attention, FeedForward, Layer, full_attention, make_norm
        from workbench.models.vit_modules import ClassHead, PatchEmbedding

        o, pools_mean = self.options, self.options.pooling == "mean"

        def norm() -> nn.Module:
            return make_norm("layer", o.hidden_dim)

        if block == "embedding":
            has_class_token = o.pooling == "class"
            return PatchEmbedding(
                o.patch_size, self.patch_features, o.hidden_dim, self.shape.sequence, has_class_token, o.dropout
            )
        if block == "head":
            return ClassHead(norm(), o.hidden_dim, self.data.num_classes, pools_mean)
        attention = Attention(o.hidden_dim, o.num_heads, o.num_heads, full_attention, bias=True)
        return Layer(attention, FeedForward(o.hidden_dim, o.feedforward_dim, "gelu", bias=True), norm, o.dropout)
