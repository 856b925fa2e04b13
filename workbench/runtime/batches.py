"""The batch of each step as tensors: the same samples in the same order in every split."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch import Tensor

from workbench.data.base import sample_order
from workbench.plan.feasibility import Plan
from workbench.strategies.worker_model import WorkerModel


class Batches:
    """Global batches by step."""

    def __init__(self, plan: Plan, device: torch.device, dtype: torch.dtype) -> None:
        self.train, self.device, self.dtype = plan.spec.train, device, dtype
        self.samples: Any = plan.dataset.load()

    def of_worker(self, step: int, worker: WorkerModel) -> tuple[Tensor, Tensor]:
        """Inputs and targets of one step that a worker computes: its samples, and of each its positions."""
        inputs, targets = self.of_step(step, worker.batch_part)
        if worker.sequence_part is None:
            return inputs, targets
        positions = list(chain.from_iterable(worker.sequence_part))
        return inputs[:, positions], targets[:, positions]

    def of_step(self, step: int, part: tuple[int, int] = (0, 1)) -> tuple[Tensor, Tensor]:
        """Inputs and targets of one step: the i-th of n equal parts of the global batch."""
        indices = sample_order(self.train.seed, len(self.samples), step, self.train.global_batch_size)
        index, count = part
        size = len(indices) // count
        inputs, targets = map(torch.from_numpy, self.samples.batch(indices[index * size : (index + 1) * size]))
        inputs, targets = (t.to(self.dtype) if t.is_floating_point() else t for t in (inputs, targets))
        return inputs.to(self.device), targets.to(self.device)
