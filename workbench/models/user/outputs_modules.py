"""What a user's module returns: the output that is compared, and the loss, which its own code or the user's computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workbench.torch_private.dispatch import tree_leaves, tree_map

LossFunction = Callable[[Any, Any], Any]
"""(outputs, targets) → the loss, a scalar."""


@dataclass(frozen=True)
class Result:
    """What the last block returns."""

    loss: LossFunction | None = None
    """The user's loss of outputs and targets; the samples are then pairs of inputs and targets."""

    has_loss: bool = False
    """Whether it returns a loss beside the main output in training: this one, or that of the module."""

    def inputs(self, samples: Any) -> Any:
        """Returns the inputs of the module."""
        return samples if self.loss is None else samples[0]

    def of(self, output: Any, samples: Any, trains: bool) -> Any:
        """Returns the main output of what the module returned for these samples, and in training the loss, if it has one."""
        if not trains or not self.has_loss:
            return main_output(output)
        return with_loss(output, None if self.loss is None else samples[1], self.loss)


def main_output(output: Any) -> Any:
    """Returns the output itself if it is a tensor; of several, ``logits`` if there is one of this name, else the first that is no
    scalar."""
    if isinstance(output, Mapping):
        return output["logits"] if "logits" in output else _first(output.values())
    if isinstance(output, tuple | list):
        return getattr(output, "logits", _first(output))
    return output if isinstance(output, Tensor) else getattr(output, "logits", output)


def returned_loss(output: Any) -> Tensor | None:
    """Returns the scalar that a module returns under the name ``loss``, as Transformers models do that receive ``labels``."""
    loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    return loss if isinstance(loss, Tensor) and loss.dim() == 0 and loss.is_floating_point() else None


def labels_of(inputs: Any) -> Any:
    """Returns the ``labels`` among the inputs, of which a module that returns its loss computes it; without, nothing."""
    return inputs["labels"] if isinstance(inputs, Mapping) and "labels" in inputs else ()


def with_loss(output: Any, targets: Any, function: LossFunction | None) -> tuple[Tensor, Tensor]:
    """Returns the main output of a module and the loss, in at least single precision.

    Args:
        output: what the module returned.
        function: the user's loss; None for what the module returned as ``loss``.
    """
    main = main_output(output)
    dtype = torch.promote_types(main.dtype, torch.float32)
    loss = returned_loss(output) if function is None else function(_upcast(output), targets)
    assert isinstance(loss, Tensor), "the module returned a loss when it was inspected"
    if not loss.isfinite():
        # Perhaps no target counts, and the loss of this piece is then zero times the main output. The parameters of the other
        # outputs have gradients, too, for which replicas wait.
        leaves = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.dim() and leaf.requires_grad]
        for leaf in leaves:
            main = main if leaf is main else main + leaf.nan_to_num(0.0, 0.0, 0.0).sum().to(main.dtype) * 0
    return main, loss.to(dtype)


def _upcast(output: Any) -> Any:
    """Returns outputs in at least single precision: the logarithms of a cross-entropy need more than eight bits."""

    def cast(value: Any) -> Any:
        is_short = isinstance(value, Tensor) and value.is_floating_point() and value.element_size() < torch.float32.itemsize
        return value.float() if is_short else value

    return tree_map(cast, output)


def _first(values: Any) -> Any:
    values = list(values)
    return next((value for value in values if isinstance(value, Tensor) and value.dim()), values[0] if values else None)
