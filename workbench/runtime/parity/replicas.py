"""The reference of a strategy whose replicas have parameters of their own (local SGD; ``plan/lossy.py``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from workbench.runtime.parity.reference import Reference, ReferenceStep

if TYPE_CHECKING:
    from workbench.plan.lossy import Lossy
    from workbench.runtime.parity.local_tensors import LocalTensor


class ReplicaReference:
    """The unsplit model on one worker, once per replica. Each takes its own steps on its own part of the batch, and the
    parameters are averaged at the steps that the strategy declares."""

    def __init__(self, replicas: Sequence[Reference], lossy: Lossy) -> None:
        self.replicas, self.lossy, self.had_dropout = replicas, lossy, replicas[0].had_dropout
        self.lower_precision = replicas[0].lower_precision
        for index, reference in enumerate(replicas):
            num_samples = len(reference.sample_indices) // len(replicas)
            reference.sample_indices = torch.arange(num_samples, device=reference.sample_indices.device)
            reference.first_sample = index * num_samples
            reference.num_shards //= len(replicas)
            del reference.replica_states[1:]
            reference.batches = _ReplicaBatches(reference.batches, (index, len(replicas)))  # type: ignore[assignment]

    def step(self, step: int, gathered: list[LocalTensor]) -> ReferenceStep:
        """Takes a step with each replica; ``gathered`` is what the split computed in it."""
        parts = [reference.tensors(step) for reference in self.replicas]
        if self.lossy.averages(step):
            self._average(parts, gathered)
        tensors = {"outputs": torch.cat([part["outputs"] for part in parts])}
        tensors["loss"] = torch.stack([part["loss"] for part in parts]).mean(dim=0)
        for index, part in enumerate(parts):
            tensors |= {replica_name(name, index): tensor for name, tensor in part.items() if name not in tensors}
        return ReferenceStep(tensors, whole_batch=None)

    def _average(self, parts: list[dict[str, Tensor]], gathered: list[LocalTensor]) -> None:
        """Continues all replicas from the mean. If the strategy states no bound on its own average, continues them from the
        parameters of the split's first replica, which all others must equal."""
        if self.lossy.limit is None:
            self.adopt([tensor for tensor in gathered if tensor.name.endswith(replica_name("", 0))], first_only=True)
        with torch.no_grad():
            named = [dict(reference.blocks.named_parameters()) for reference in self.replicas]
            for name, first in named[0].items():
                copies = [parameters[name] for parameters in named]
                mean = first.clone() if self.lossy.limit is None else torch.stack([*copies]).mean(dim=0)
                for copy, part in zip(copies, parts, strict=True):
                    copy.copy_(mean)
                    part[f"parameter {name}"] = mean

    def adopt(self, gathered: list[LocalTensor], first_only: bool = False) -> None:
        """Continues from the parameters of the split's replicas."""
        for index, reference in enumerate(self.replicas[:1] if first_only else self.replicas):
            ending = replica_name("", index)
            reference.adopt([replace(t, name=t.name.removesuffix(ending)) for t in gathered if t.name.endswith(ending)])


class _ReplicaBatches:
    """Returns one replica's part of each global batch; delegates all else to the given batches."""

    def __init__(self, batches: Any, part: tuple[int, int]) -> None:
        self._batches, self._part = batches, part

    def step_batch(self, step: int) -> tuple[Tensor, Tensor]:
        inputs, targets = self._batches.step_batch(step, self._part)
        return inputs, targets

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)


def has_local_parameters(lossy: Lossy | None) -> bool:
    """Returns whether replicas have parameters of their own."""
    return lossy is not None and lossy.changes == "parameters"


def replica_name(name: str, index: int) -> str:
    """Returns ``parameter head.weight on replica 1``: tensors that may differ between replicas are compared by replica."""
    return f"{name} on replica {index}"


def rename_by_replica(tensors: list[LocalTensor], index: int) -> list[LocalTensor]:
    """Returns a worker's local tensors, with gradients and parameters renamed by its replica."""
    shared = ("loss", "outputs", "tokens")
    return [t if t.name in shared else replace(t, name=replica_name(t.name, index)) for t in tensors]
