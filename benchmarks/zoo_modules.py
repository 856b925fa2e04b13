"""Modules as tutorials write them, for ``model_zoo.py``: nothing in them knows of the workbench."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import torch
from torch import Tensor, nn

TOKENS, CLASSES, FEATURES, WIDTH = 32, 10, 32, 16


class LSTM(nn.Module):
    """A language model of two recurrent layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, WIDTH)
        self.lstm = nn.LSTM(WIDTH, WIDTH, num_layers=2, batch_first=True)
        self.decoder = nn.Linear(WIDTH, TOKENS)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden, _ = self.lstm(self.embed(tokens))
        return self.decoder(hidden)


class Seq2SeqGRU(nn.Module):
    """An encoder whose state begins a decoder, which sees the same tokens (teacher forcing)."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(TOKENS, WIDTH), nn.Embedding(TOKENS, WIDTH)
        self.encoder = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.decoder = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.out = nn.Linear(WIDTH, TOKENS)

    def forward(self, tokens: Tensor) -> Tensor:
        _, state = self.encoder(self.source(tokens.flip(1)))
        hidden, _ = self.decoder(self.target(tokens), state)
        return self.out(hidden)


class Transformer(nn.Module):
    """``nn.Transformer``, of which source and target are the same tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(TOKENS, WIDTH), nn.Parameter(torch.randn(64, WIDTH) * 0.02)
        self.transformer = nn.Transformer(WIDTH, 4, 2, 2, 32, dropout=0.1, batch_first=True)
        self.head = nn.Linear(WIDTH, TOKENS)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.position[: tokens.shape[1]]
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], device=x.device, dtype=x.dtype)
        return self.head(self.transformer(x, x, src_mask=mask, tgt_mask=mask, memory_mask=mask))


def _twice(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Two levels down and up again, with skips; the mean over pixels is the class."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = _twice(3, 8), _twice(8, 16), _twice(16, 32)
        self.pool = nn.MaxPool2d(2)
        self.up2, self.join2 = nn.ConvTranspose2d(32, 16, 2, stride=2), _twice(32, 16)
        self.up1, self.join1 = nn.ConvTranspose2d(16, 8, 2, stride=2), _twice(16, 8)
        self.out = nn.Conv2d(8, CLASSES, 1)

    def forward(self, images: Tensor) -> Tensor:
        first = self.down1(images)
        second = self.down2(self.pool(first))
        x = self.bottom(self.pool(second))
        x = self.join2(torch.cat([self.up2(x), second], dim=1))
        x = self.join1(torch.cat([self.up1(x), first], dim=1))
        return self.out(x).mean(dim=(2, 3))


class DLRM(nn.Module):
    """Dense features, and bags of sparse ones that ``EmbeddingBag`` sums, whose pairwise products are features too."""

    def __init__(self) -> None:
        super().__init__()
        self.bags = nn.ModuleList(nn.EmbeddingBag(20, 8, mode="sum") for _ in range(3))
        self.bottom = nn.Sequential(nn.Linear(8, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 8))
        self.top = nn.Sequential(nn.Linear(8 + 6, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES))

    def forward(self, features: Tensor) -> Tensor:
        dense, sparse = features[:, :8], (features[:, 8:].abs() * 5).long().clamp(max=19)
        offsets = torch.arange(len(features), device=features.device) * 8
        vectors = [self.bottom(dense)]
        vectors += [bag(sparse[:, 8 * i : 8 * i + 8].flatten(), offsets) for i, bag in enumerate(self.bags)]
        stacked = torch.stack(vectors, dim=1)
        rows, columns = torch.tril_indices(4, 4, offset=-1, device=features.device)
        products = (stacked @ stacked.transpose(1, 2))[:, rows, columns]
        return self.top(torch.cat([vectors[0], products], dim=1))


class TiedWeights(nn.Module):
    """A language model whose head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 32, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, TOKENS)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(
            tokens.shape[1], device=tokens.device, dtype=self.embed.weight.dtype
        )
        return self.head(self.encoder(self.embed(tokens), mask=mask, is_causal=True))


class DictOutput(nn.Module):
    """Two heads, in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(FEATURES, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh())
        self.head, self.other = nn.Linear(WIDTH, CLASSES), nn.Linear(WIDTH, 2)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        hidden = self.body(features)
        return {"other": self.other(hidden), "logits": self.head(hidden)}


class DataDependent(nn.Module):
    """The values of the batch decide which layers compute."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.left, self.right = (nn.Linear(FEATURES, FEATURES) for _ in range(3))
        self.head = nn.Linear(FEATURES, CLASSES)

    def forward(self, features: Tensor) -> Tensor:
        x = self.first(features).relu()
        x = self.left(x) if x.mean() > 0.3 else self.right(x)
        return self.head(x)


class FrozenBackbone(nn.Module):
    """Only the head is trained; the batch norm of the backbone stays in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(), nn.Flatten()
        )
        self.backbone.requires_grad_(False)
        self.head = nn.Sequential(nn.Linear(8 * 7 * 7, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES))

    def train(self, mode: bool = True) -> FrozenBackbone:
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images))


class TwoDtypes(nn.Module):
    """The head computes in fp64."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(FEATURES, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.GELU())
        self.head = nn.Linear(WIDTH, CLASSES, dtype=torch.float64)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.body(features).to(self.head.weight.dtype))


class CLIP(nn.Module):
    """Transformers' CLIP with its contrastive loss, which it computes if it is asked to."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import CLIPConfig, CLIPModel

        size = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
        text = {**size, "vocab_size": TOKENS, "eos_token_id": TOKENS - 1, "bos_token_id": 0, "pad_token_id": 0}
        image = {**size, "image_size": 32, "patch_size": 8}
        self.clip = CLIPModel(CLIPConfig(text_config=text, vision_config=image, projection_dim=WIDTH))

    def forward(self, input_ids: Tensor, pixel_values: Tensor) -> Any:
        return self.clip(input_ids=input_ids, pixel_values=pixel_values, return_loss=True)


def torchvision_model(name: str, **options: Any) -> nn.Module:
    """Returns a classifier of torchvision, or the mean over pixels of a segmentation, with random weights."""
    _declare_operators()
    from torchvision import models

    if name in ("lraspp_mobilenet_v3_large", "fcn_resnet50"):
        return PixelMean(getattr(models.segmentation, name)(**options))
    if name == "ConvNeXt":
        sizes = [models.convnext.CNBlockConfig(16, 32, 2), models.convnext.CNBlockConfig(32, None, 2)]
        return models.ConvNeXt(sizes, **options)
    return getattr(models, name)(**options)


def timm_model(name: str, **options: Any) -> nn.Module:
    """Returns a model of timm with random weights."""
    _declare_operators()
    import timm

    return timm.create_model(name, pretrained=False, num_classes=CLASSES, **options)


class PixelMean(nn.Module):
    """The class of an image by the mean over the pixels of a segmentation."""

    def __init__(self, segmentation: nn.Module) -> None:
        super().__init__()
        self.segmentation = segmentation

    def forward(self, images: Tensor) -> Tensor:
        return self.segmentation(images)["out"].mean(dim=(2, 3))


_LIBRARIES: list[torch.library.Library] = []


def _declare_operators() -> None:
    """Declares the operators without which torchvision does not import, if its library belongs to another build of torch."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        _LIBRARIES.append(torch.library.Library("torchvision", "DEF"))
        for name in ("nms", "qnms"):
            _LIBRARIES[0].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
