"""Mixed precision: blocks compute with copies of the parameters in fewer bytes; parameters, their gradients and the optimizer's
state keep their own (Micikevicius et al. 2018, section 3.1).

It means what ``MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)`` means to FSDP2, which makes the
copies itself: parameters and inputs of a block are cast, not single operations as autocast does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from workbench.torch_private.dispatch import tree_map
from workbench.torch_private.modules import parameters_of


class ComputeCopies:
    """Copies of the parameters of blocks, each made when a block first needs it in a step and kept until ``clear``.

    A copy is a node of the autograd graph that all microbatches share. Its gradient reaches the parameter in the parameter's
    own format, so gradients of microbatches are accumulated and averaged over workers in that.
    """

    def __init__(self, blocks: nn.Sequential, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._copies: dict[Tensor, Tensor] = {}
        for block in blocks:
            block.forward = partial(self._forward, block, block.forward)

    def clear(self) -> None:
        """Forgets the copies: the parameters are going to change."""
        self._copies.clear()

    def _forward(self, block: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with self._in_place_of_parameters(block):
            return forward(*tree_map(self._cast, args), **tree_map(self._cast, kwargs))

    @contextmanager
    def _in_place_of_parameters(self, block: nn.Module) -> Iterator[None]:
        held = [
            (module, name, parameter)
            for module in block.modules()
            for name, parameter in parameters_of(module).items()
            if parameter is not None
        ]
        try:
            for module, name, parameter in held:
                if parameter not in self._copies:
                    self._copies[parameter] = self._cast(parameter)
                parameters_of(module)[name] = self._copies[parameter]
            yield
        finally:
            for module, name, parameter in held:
                parameters_of(module)[name] = parameter

    def _cast(self, value: Any) -> Any:
        return value.to(self.dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def loss_in(dtype: torch.dtype, loss: Callable[[Any, Any], Tensor]) -> Callable[[Any, Any], Tensor]:
    """Returns the loss of outputs cast to ``dtype``: the logarithms of a cross-entropy need more than eight bits."""
    return lambda outputs, targets: loss(tree_map(lambda output: output.to(dtype), outputs), targets)


def clear_after_steps(worker: Any, copies: ComputeCopies) -> None:
    """Makes a worker forget its copies at the end of each step, as it computes one when this is called.

    Autograd runs the newest nodes first. A copy that is older than a piece's backward hooks would hand its gradient on after
    them, and composable ``replicate`` would average without it.
    """
    compute = worker.compute

    def step(inputs: Any, targets: Any) -> Any:
        try:
            return compute(inputs, targets)
        finally:
            copies.clear()

    worker.compute = step
