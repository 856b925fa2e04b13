"""The batch of each step as tensors: the same samples in the same order in every split."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workbench.data.base import sample_order
from workbench.errors import SpecError
from workbench.plan.batch_modules import num_targets
from workbench.plan.loss_weights import LossWeights
from workbench.plan.nested import tensors
from workbench.plan.plan import Plan
from workbench.strategies.worker_model import WorkerModel
from workbench.torch_private.dispatch import tree_leaves, tree_map


class Batches:
    """Global batches by step."""

    def __init__(self, plan: Plan, device: torch.device, dtype: torch.dtype) -> None:
        self.train, self.device, self.dtype = plan.spec.train, device, dtype
        self.samples: Any = plan.dataset.load()
        self._name, self._summary = plan.spec.dataset.name, plan.dataset.summary()
        self._target_shape: tuple[int, ...] | None = None
        if not self._summary.is_streamed and len(self.samples) != self._summary.num_samples:
            raise self._mistake(
                f"summary() declares {self._summary.num_samples} samples, but load() returned {len(self.samples)}"
            )
        self.model = plan.model
        self.is_weighted = plan.spec.mode == "train" and plan.model.weighs_pieces
        self.takes_targets = plan.model.takes_targets and not plan.spec.generates

    def worker_batch(self, step: int, worker: WorkerModel) -> tuple[Any, Any]:
        """Returns the inputs and targets that a worker computes in one step: its samples and, in each, its positions. Also sets
        ``worker.loss_weights``."""
        inputs, targets = self.step_batch(step, worker.batch_part)
        worker.loss_weights = self.loss_weights(step, targets if worker.batch_part[1] == 1 else None)
        if worker.sequence_part is None:
            return inputs, targets
        positions = list(chain.from_iterable(worker.sequence_part))
        return inputs[:, positions], targets[:, positions]

    def step_batch(self, step: int, part: tuple[int, int] = (0, 1)) -> tuple[Any, Any]:
        """Returns inputs and targets of one step: the i-th of n equal parts of the global batch. The inputs of a model that takes
        targets are both."""
        indices = self._indices(step)
        index, count = part
        size = len(indices) // count
        inputs, targets = tree_map(
            self._tensor, self._checked(self.samples.batch(indices[index * size : (index + 1) * size]), size)
        )
        return (inputs, targets) if self.takes_targets else inputs, targets

    def _tensor(self, array: Any) -> Tensor:
        tensor = torch.from_numpy(array)
        return (tensor.to(self.dtype) if tensor.is_floating_point() else tensor).to(self.device)

    def loss_weights(self, step: int, targets: Any = None) -> LossWeights | None:
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
            arrays = (
                self._checked(self.samples.batch(indices), len(indices))[1] if load_targets is None else load_targets(indices)
            )
            targets = tree_map(torch.from_numpy, arrays)
        total, count = self.model.loss_weight(targets), num_targets(targets)
        all_count = total == count and not self.model.has_own_weights
        return None if all_count else LossWeights(self.model.loss_weight, total, count, num_targets)

    def _indices(self, step: int) -> Any:
        if self._summary.is_streamed:
            return self.samples.advance(step * self.train.global_batch_size, self.train.global_batch_size)
        return sample_order(self.train.seed, len(self.samples), step, self.train.global_batch_size)

    def _checked(self, batch: Any, size: int) -> tuple[Any, Any]:
        """Checks a batch of ``size`` samples that the dataset returned.

        Raises:
            SpecError: the number of samples or the shape differs from what the dataset declared or returned before.
        """
        if self._summary.has_structured_inputs or self._summary.has_structured_targets:
            return self._checked_tree(batch, size)
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

    def _checked_tree(self, batch: Any, size: int) -> tuple[Any, Any]:
        """Checks a batch of structured samples."""
        for array in tree_leaves(batch):
            if not isinstance(array, np.ndarray) or array.dtype == object or len(array) != size:
                found = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
                raise self._mistake(f"batch() must return arrays of numbers for {size} samples, but returned {found}")
        inputs, targets = batch
        for part, declared in ((inputs, self._summary.inputs), (targets, self._summary.targets)):
            shapes = {path: array.shape[1:] for path, array in tensors(part).items()}
            if other := next((t for t in declared if shapes.get(t.path) != tuple(t.shape)), None):
                raise self._mistake(
                    f"the first samples have {other.path or 'a tensor'} of shape {tuple(other.shape)}, but batch() returned"
                    f" {shapes.get(other.path)}; pad all samples to one shape"
                )
        return inputs, targets

    def _mistake(self, problem: str) -> SpecError:
        return SpecError("dataset", f"{self._name}: {problem}")
