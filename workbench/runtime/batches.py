"""The batch of each step as tensors: the same samples in the same order in every split."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workbench.data.base import sample_order
from workbench.errors import SpecError
from workbench.models.base import Model
from workbench.plan.loss_weights import LossWeights
from workbench.plan.plan import Plan
from workbench.strategies.worker_model import WorkerModel


class Batches:
    """Global batches by step."""

    def __init__(self, plan: Plan, device: torch.device, dtype: torch.dtype) -> None:
        self.train, self.device, self.dtype = plan.spec.train, device, dtype
        self.samples: Any = plan.dataset.load()
        self._name, self._summary = plan.spec.dataset.name, plan.dataset.summary()
        self._target_shape: tuple[int, ...] | None = None
        if len(self.samples) != self._summary.num_samples:
            raise self._mistake(
                f"summary() declares {self._summary.num_samples} samples, but load() returned {len(self.samples)}"
            )
        self.model = plan.model
        self.has_custom_weights = type(plan.model).loss_weight is not Model.loss_weight
        is_weighted = (self._summary.has_ignored_targets and not self._summary.has_numbers) or self.has_custom_weights
        self.is_weighted = plan.spec.mode == "train" and is_weighted

    def worker_batch(self, step: int, worker: WorkerModel) -> tuple[Tensor, Tensor]:
        """Returns the inputs and targets that a worker computes in one step: its samples and, in each, its positions. Also sets
        ``worker.loss_weights``."""
        inputs, targets = self.step_batch(step, worker.batch_part)
        worker.loss_weights = self.loss_weights(step, targets if worker.batch_part[1] == 1 else None)
        if worker.sequence_part is None:
            return inputs, targets
        positions = list(chain.from_iterable(worker.sequence_part))
        return inputs[:, positions], targets[:, positions]

    def step_batch(self, step: int, part: tuple[int, int] = (0, 1)) -> tuple[Tensor, Tensor]:
        """Returns inputs and targets of one step: the i-th of n equal parts of the global batch."""
        indices = self._indices(step)
        index, count = part
        size = len(indices) // count
        inputs, targets = map(
            torch.from_numpy, self._checked(self.samples.batch(indices[index * size : (index + 1) * size]), size)
        )
        inputs, targets = (t.to(self.dtype) if t.is_floating_point() else t for t in (inputs, targets))
        return inputs.to(self.device), targets.to(self.device)

    def loss_weights(self, step: int, targets: Tensor | None = None) -> LossWeights | None:
        """Returns the weights of the pieces of a step's batch; None if all targets count and all weights are equal.

        Each worker computes them from the targets of the global batch, without communication.

        Args:
            targets: targets of the global batch, if already loaded.
        """
        if not self.is_weighted:
            return None
        if targets is None:
            indices = self._indices(step)
            load_targets = getattr(self.samples, "targets", None)
            targets = torch.from_numpy(
                self._checked(self.samples.batch(indices), len(indices))[1] if load_targets is None else load_targets(indices)
            )
        total = self.model.loss_weight(targets)
        all_count = total == targets.numel() and not self.has_custom_weights
        return None if all_count else LossWeights(self.model.loss_weight, total, targets.numel())

    def _indices(self, step: int) -> Any:
        return sample_order(self.train.seed, len(self.samples), step, self.train.global_batch_size)

    def _checked(self, batch: Any, size: int) -> tuple[Any, Any]:
        """Checks a batch of ``size`` samples that the dataset returned.

        Raises:
            SpecError: the number of samples or the shape differs from what the dataset declared or returned before.
        """
        if not isinstance(batch, tuple) or len(batch) != 2 or not all(isinstance(part, np.ndarray) for part in batch):
            raise self._mistake(f"batch() must return two numpy arrays, inputs and targets, but returned {type(batch).__name__}")
        inputs, targets = batch
        if any(part.dtype == object for part in batch):
            raise self._mistake("batch() returned samples of different shapes; pad them to the same shape")
        if (len(inputs), len(targets)) != (size, size):
            raise self._mistake(f"batch() got {size} indices, but returned {len(inputs)} inputs and {len(targets)} targets")
        shape = tuple(self._summary.input_shape)
        if inputs.shape[1:] != shape:
            raise self._mistake(f"summary() declares inputs of shape {shape}, but batch() returned {inputs.shape[1:]}")
        if self._target_shape is None:
            self._target_shape = targets.shape[1:]
        if targets.shape[1:] != self._target_shape:
            raise self._mistake(
                f"batch() first returned targets of shape {self._target_shape}, then of shape {targets.shape[1:]}"
            )
        return inputs, targets

    def _mistake(self, problem: str) -> SpecError:
        return SpecError("dataset", f"{self._name}: {problem}")
