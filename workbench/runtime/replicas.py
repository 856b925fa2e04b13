"""Parity of strategies that declare what they change (``plan/lossy.py``): replicas with parameters of their own, and errors
measured by the gradients that are averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import sqrt
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from workbench.plan.lossy import Lossy
    from workbench.runtime.parity import Piece, Reference


@dataclass
class Worst:
    """The error that a report names: the largest; or, once errors are larger than allowed, of the first step that has such
    errors the one that is so by the largest factor. Those of later steps follow from it."""

    error: float = 0.0
    tensor: str = "none"
    allowed: float = 0.0
    is_wrong: bool = False

    def add(self, errors: Mapping[str, float], allowed: Callable[[str], float]) -> None:
        """Takes in the errors of a step."""
        if self.is_wrong:
            return
        for name, error in errors.items():
            bound = allowed(name)
            candidate = Worst(error, name, bound, not error <= bound)
            if self.tensor == "none" or candidate._rank > self._rank:
                self.error, self.tensor, self.allowed, self.is_wrong = error, name, bound, candidate.is_wrong

    @property
    def _rank(self) -> tuple[bool, float, float]:
        return self.is_wrong, self.error / self.allowed if self.is_wrong else 0.0, self.error


class Addends:
    """Norms of the gradients of the pieces of a batch, whose mean is the gradient that the reference computes."""

    def __init__(self, blocks: nn.Module) -> None:
        self.blocks = blocks
        self.norms: dict[str, list[float]] = {}

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Records the gradient of each backward pass; they add up in ``parameter.grad``."""
        self.norms, previous = {}, dict[str, Tensor]()

        def record(name: str, parameter: Tensor) -> None:
            assert parameter.grad is not None
            gradient = parameter.grad.detach()
            self.norms.setdefault(name, []).append(float((gradient - previous[name] if name in previous else gradient).norm()))
            previous[name] = gradient.clone()

        hooks = [
            parameter.register_post_accumulate_grad_hook(lambda p, name=name: record(name, p))
            for name, parameter in self.blocks.named_parameters()
            if parameter.requires_grad
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def floors(self, tensors: dict[str, Tensor], learning_rate: float, is_clipped: bool) -> dict[str, float]:
        """By which norm, at least, the error of each gradient and updated parameter is divided: the mean of the addends'. An
        update moves a parameter by the learning rate times its gradient, and clipping scales gradients by the norm of all."""
        means = {name: sum(norms) / len(norms) for name, norms in self.norms.items()}
        gradients = {name: float(tensors[f"gradient of {name}"].norm()) for name in means}
        mean_norm, norm = (sqrt(sum(value**2 for value in values.values())) for values in (means, gradients))
        floors: dict[str, float] = {}
        for name, mean in means.items():
            clipped = mean_norm * gradients[name] / norm if is_clipped and norm else 0.0
            floors |= {f"gradient of {name}": mean, f"parameter {name}": learning_rate * (mean + clipped)}
        return floors


class ReplicaReference:
    """The unsplit model on one worker once for each replica, each of which takes its own steps on its own part of the batch;
    their parameters are averaged as often as the strategy declares."""

    def __init__(self, replicas: Sequence[Reference], lossy: Lossy) -> None:
        self.replicas, self.lossy, self.had_dropout = replicas, lossy, replicas[0].had_dropout
        for index, reference in enumerate(replicas):
            num_samples = len(reference.places) // len(replicas)
            reference.places = torch.arange(num_samples, device=reference.places.device)
            reference.first_sample = index * num_samples
            reference.num_chunks //= len(replicas)
            del reference.buffers_of_replicas[1:]
            reference.batches = _PartOfBatches(reference.batches, (index, len(replicas)))  # type: ignore[assignment]

    def whole_batch(self, step: int) -> None:
        """No one worker has the parameters of all replicas."""

    def step(self, step: int, gathered: list[Piece]) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Every tensor that is compared, by name, as ``Reference.step`` has them; ``gathered`` are those of the split."""
        parts = [reference.tensors(step) for reference in self.replicas]
        if self.lossy.averages(step):
            self._average(parts, gathered)
        tensors = {"outputs": torch.cat([part["outputs"] for part in parts])}
        tensors["loss"] = torch.stack([part["loss"] for part in parts]).mean(dim=0)
        for index, part in enumerate(parts):
            tensors |= {of_replica(name, index): tensor for name, tensor in part.items() if name not in tensors}
        return tensors, {}

    def _average(self, parts: list[dict[str, Tensor]], gathered: list[Piece]) -> None:
        """All replicas go on from the mean; where no formula says what the strategy makes of it, from what the first one of
        the split has, which all of them must have."""
        if self.lossy.limit is None:
            self.adopt([piece for piece in gathered if piece.name.endswith(of_replica("", 0))], first_alone=True)
        with torch.no_grad():
            named = [dict(reference.blocks.named_parameters()) for reference in self.replicas]
            for name, first in named[0].items():
                copies = [parameters[name] for parameters in named]
                mean = first.clone() if self.lossy.limit is None else torch.stack([*copies]).mean(dim=0)
                for copy, part in zip(copies, parts, strict=True):
                    copy.copy_(mean)
                    part[f"parameter {name}"] = mean

    def adopt(self, gathered: list[Piece], first_alone: bool = False) -> None:
        """Goes on from the parameters that the replicas of the split have."""
        for index, reference in enumerate(self.replicas[:1] if first_alone else self.replicas):
            ending = of_replica("", index)
            local_pieces = [replace(p, name=p.name.removesuffix(ending)) for p in gathered if p.name.endswith(ending)]
            reference.adopt(local_pieces)


class _PartOfBatches:
    """The part of each global batch that one replica computes."""

    def __init__(self, batches: Any, part: tuple[int, int]) -> None:
        self._batches, self._part = batches, part

    def step_batch(self, step: int) -> tuple[Tensor, Tensor]:
        inputs, targets = self._batches.step_batch(step, self._part)
        return inputs, targets

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)


def of_replica(name: str, index: int) -> str:
    """``parameter head.weight on replica 1``: tensors that may differ from replica to replica have names of their own."""
    return f"{name} on replica {index}"


def named_by_replica(pieces: list[Piece], index: int) -> list[Piece]:
    """A worker's pieces, gradients and parameters named by its replica."""
    shared = ("loss", "outputs", "tokens")
    return [piece if piece.name in shared else replace(piece, name=of_replica(piece.name, index)) for piece in pieces]
