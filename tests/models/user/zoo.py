"""Modules as people write them, for the data that come with the workbench."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from workbench.models.dropout_modules import SampleDropout


class ResidualsOutside(nn.Module):
    """A loop whose residuals are outside the layers, a parameter of its own, a dropout and a long skip; for features."""

    def __init__(self, width: int = 8, inputs: int = 64) -> None:
        super().__init__()
        self.embed, self.position, self.drop = nn.Linear(inputs, width), nn.Parameter(torch.randn(width)), nn.Dropout(0.1)
        layers = (nn.Sequential(nn.Linear(width, 12), nn.GELU(), nn.Linear(12, width)) for _ in range(3))
        self.layers = nn.ModuleList(layers)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = skip = self.drop(self.embed(x) + self.position)
        for layer in self.layers:
            h = h + layer(h)
        return self.head(self.norm(h + skip))


class UNet(nn.Module):
    """Skips from encoder to decoder, an activation in place that is called often, and a view at the end; for images."""

    def __init__(self, channels: int = 1, norm: bool = False) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(channels, 4, 3, padding=1), nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.norm: nn.Module = nn.BatchNorm2d(8) if norm else nn.GroupNorm(2, 8)
        self.relu, self.pool = nn.ReLU(inplace=True), nn.AvgPool2d(2)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.last, self.head = nn.Conv2d(8, 4, 3, padding=1), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        first = self.relu(self.down1(x))
        second = self.relu(self.norm(self.down2(first)))
        third = torch.cat([first, self.up(second)], dim=1)
        return self.head(self.pool(self.last(third)).flatten(1))


class TiedTransformer(nn.Module):
    """An encoder whose head is the embedding, with a mask as a buffer and an embedding of positions; for tokens."""

    def __init__(self, tokens: int = 20, length: int = 6, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed, self.positions = nn.Embedding(tokens, 8), nn.Embedding(length, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(8, tokens, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("mask", torch.triu(torch.full((length, length), float("-inf")), 1))

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embed(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        return self.head(self.encoder(h, mask=self.mask))


class SingleNorm(nn.Module):
    """Norms that compute in fp32 whatever the format of the model, with their weight as in Gemma, or outside; for features."""

    class Norm(nn.Module):
        def __init__(self, width: int, weight_in_single: bool) -> None:
            super().__init__()
            self.weight, self.weight_in_single = nn.Parameter(torch.zeros(width)), weight_in_single

        def forward(self, x: Tensor) -> Tensor:
            single = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6)
            if self.weight_in_single:
                return (single * (1 + self.weight.float())).type_as(x)
            return single.type_as(x) * (1 + self.weight)

    def __init__(self, inputs: int = 64, weight_in_single: bool = True) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(inputs, 8), nn.Linear(8, 10)
        self.norms = nn.ModuleList(SingleNorm.Norm(8, weight_in_single) for _ in range(2))
        self.register_buffer("angles", torch.arange(8.0))

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x) * self.angles.float().cos()  # the same for every piece of a batch
        for norm in self.norms:
            h = norm(torch.relu(h))
        return self.head(h)


class WeightOfAnother(nn.Module):
    """Its output multiplies with the weight of the embedding outside of any module; for tokens."""

    def __init__(self, tokens: int = 20) -> None:
        super().__init__()
        self.embed, self.a, self.b = nn.Embedding(tokens, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.b(self.a(self.embed(tokens))) @ self.embed.weight.T


class NeverCalled(TiedTransformer):
    """The embedding is also the weight of a module that nothing calls, as in T5 and BART; for tokens."""

    def __init__(self, tokens: int = 20) -> None:
        super().__init__(tokens)
        self.shared = nn.Embedding(tokens, self.embed.embedding_dim)
        self.shared.weight = self.embed.weight


class SecondName(nn.Module):
    """Holds the bias of a layer as a parameter of its own, too, and adds it again; for features."""

    def __init__(self, inputs: int = 64) -> None:
        super().__init__()
        self.embed, self.layer, self.head = nn.Linear(inputs, 8), nn.Linear(8, 8), nn.Linear(8, 10)
        self.bias = self.embed.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.layer(torch.relu(self.embed(x)) + self.bias)))


class Recurrent(nn.Module):
    """Layers that return tuples, and a dict as output; for tokens."""

    def __init__(self, tokens: int = 20) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, 8)
        self.layers = nn.ModuleList(nn.LSTM(8, 8, batch_first=True) for _ in range(2))
        self.head = nn.Linear(8, tokens)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        h = self.embed(tokens)
        for layer in self.layers:
            h, _ = layer(h)
        return {"hidden": h, "logits": self.head(h)}


class DependsOnValues(nn.Module):
    """Its path depends on the values of its input; for features."""

    def __init__(self, inputs: int = 64) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(inputs, 16), nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.c(self.b(h) if h.abs().mean() > 0 else h)


class Branches(nn.Module):
    """The values of the first sample decide which of two layers computes; for features."""

    def __init__(self, inputs: int = 64) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(inputs, 8), nn.Linear(8, 10)
        self.left, self.right = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        return self.head(self.left(h) if int(h[0].abs().sum() * 64) % 2 else self.right(h))


class Unused(nn.Module):
    """A head that the loss does not use; for features."""

    def __init__(self, inputs: int = 64) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, 8))
        self.head, self.other = nn.Linear(8, 10), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.body(x)
        return {"logits": self.head(h), "other": self.other(h)}


class Shared(nn.Module):
    """One layer that is called three times; for features."""

    def __init__(self, inputs: int = 64) -> None:
        super().__init__()
        self.embed, self.layer, self.head = nn.Linear(inputs, 8), nn.Linear(8, 8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        for _ in range(3):
            h = torch.relu(self.layer(h))
        return self.head(h)


class Dropped(nn.Module):
    """A dropout whose masks depend on samples alone, so that parity leaves it on; for features."""

    def __init__(self, inputs: int = 64) -> None:
        super().__init__()
        self.embed, self.drop, self.head = nn.Linear(inputs, 8), SampleDropout(0.5), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.embed(x)))


class FrozenSkip(nn.Module):
    """The output of a frozen embedding is read at the end, beside what is trained; for features."""

    def __init__(self, inputs: int = 64) -> None:
        super().__init__()
        self.embed = nn.Linear(inputs, 8).requires_grad_(False)
        self.a, self.b, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.embed(x)
        return self.head(self.b(torch.relu(self.a(skip))) + skip)


class FrozenBackbone(nn.Module):
    """Layers before the head are frozen, and stay in eval mode; for features."""

    def __init__(self, inputs: int = 64) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(inputs, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8)).requires_grad_(False)
        self.head = nn.Linear(8, 10)

    def train(self, mode: bool = True) -> FrozenBackbone:
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


class WritesInPlace(nn.Module):
    """Its own code writes into the output of a layer that is read again later; for features."""

    def __init__(self, inputs: int = 64) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(inputs, 8), nn.Linear(8, 8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h += 1
        return self.head(self.b(h) + h)


class Halves(nn.Module):
    """Two views of one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 16)

    def forward(self, h: Tensor) -> tuple[Tensor, ...]:
        return self.layer(h).chunk(2, -1)


class Aliases(nn.Module):
    """A layer that returns two views of one tensor, and one that returns its input, which is read as a residual; for features."""

    def __init__(self, inputs: int = 64) -> None:
        super().__init__()
        self.a, self.halves, self.same, self.head = nn.Linear(inputs, 8), Halves(), nn.Identity(), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        residual = h
        first, second = self.halves(self.same(h))
        return self.head(first * second + residual)


class Noting(nn.Module):
    """Keeps a tensor that it does not return."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.note: Tensor | None = None

    def forward(self, h: Tensor) -> Tensor:
        self.note = h.square().mean()
        return self.layer(h)


class ReadsAttribute(nn.Module):
    """Adds what a layer has kept as an attribute at the end, as auxiliary losses are; for features."""

    def __init__(self, inputs: int = 64) -> None:
        super().__init__()
        self.a, self.noting, self.b, self.head = nn.Linear(inputs, 8), Noting(), nn.Linear(8, 8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = self.head(self.b(self.noting(self.a(x))))
        assert self.noting.note is not None
        return out + self.noting.note


class Counting(nn.Module):
    """Returns the number of samples beside its output."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, h: Tensor) -> tuple[Tensor, int]:
        return self.layer(h), len(h)


class ReadsNumbers(nn.Module):
    """Divides by a number that a layer returns, on the device and in the format of its parameters; for features."""

    def __init__(self, inputs: int = 64) -> None:
        super().__init__()
        self.a, self.counting, self.b, self.head = nn.Linear(inputs, 8), Counting(), nn.Linear(8, 8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        like = next(self.parameters())
        h, number = self.counting(self.a(x.to(like.device)))
        return self.head(self.b(h) / number + torch.ones(8, dtype=like.dtype, device=like.device))


class ReturnsHidden(nn.Module):
    """Also returns the output of every layer, which no loss uses; for features."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(64 if i == 0 else width, width), nn.GELU()) for i in range(3))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> dict[str, object]:
        hidden = [x]
        for layer in self.layers:
            hidden.append(layer(hidden[-1]))
        return {"hidden": tuple(hidden), "logits": self.head(hidden[-1])}


class LabelsInside(nn.Module):
    """Takes tokens, a mask and labels by name, and returns a dict with the mean loss over the labels that are not ignored."""

    def __init__(self, tokens: int = 20, width: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed, self.head, self.dropout = nn.Embedding(tokens, width), nn.Linear(width, tokens), dropout
        layers = (nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width)) for _ in range(3))
        self.layers = nn.ModuleList(layers)

    def forward(self, ids: Tensor, mask: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        h = functional.dropout(self.embed(ids) * mask[..., None], self.dropout, self.training)
        for layer in self.layers:
            h = layer(h)
        logits = self.head(h)
        if labels is None:
            return {"logits": logits}
        return {"loss": functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}


class TwoOutputs(nn.Module):
    """Returns classes and a reconstruction of its input; for features."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, width), nn.GELU(), nn.Linear(width, width), nn.GELU())
        self.classes, self.back = nn.Linear(width, 10), nn.Linear(width, 64)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.body(x)
        return {"classes": self.classes(h), "back": self.back(h), "inputs": x}


def mean_loss(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs["classes"], targets) + functional.mse_loss(outputs["back"], outputs["inputs"])


def sum_loss(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs["classes"], targets, reduction="sum")


def contrastive_loss(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
    """Tells each sample from the others of the batch."""
    scores = functional.normalize(outputs["classes"]) @ functional.normalize(outputs["classes"]).T
    return functional.cross_entropy(scores, torch.arange(len(scores)))


def no_scalar(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs["classes"], targets, reduction="none")


def raises(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs["nothing"], targets)
