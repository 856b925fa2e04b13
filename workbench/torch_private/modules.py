"""Parts of ``torch.nn``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from torch import Tensor, nn
from torch.nn.modules import batchnorm, dropout

AnyBatchNorm = batchnorm._BatchNorm
"""The base class of all batch norms.

Private: torch.nn.modules.batchnorm._BatchNorm
Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/nn/modules/batchnorm.py
Checked: torch 2.11, 2.12, 2.13
Reason: the public classes have no public base, and a list of them would miss the classes that users derive from the base.
"""

AnyDropout = dropout._DropoutNd
"""The base class of all dropouts.

Private: torch.nn.modules.dropout._DropoutNd
Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/nn/modules/dropout.py
Checked: torch 2.11, 2.12, 2.13
Reason: as for ``AnyBatchNorm``.
"""


class ConvertsMore(nn.Module):
    """A module whose conversions, such as ``to``, also convert tensors that are not in its submodules.

    Private: torch.nn.Module._apply
    Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/nn/modules/module.py
    Checked: torch 2.11, 2.12, 2.13
    Reason: ``to``, ``double`` and ``cuda`` have no public hook in common.
    """

    def convert_others(self, convert: Callable[[Tensor], Tensor]) -> None:
        """Converts the other tensors."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self.convert_others(fn)
        return self


def parameters_of(module: nn.Module) -> dict[str, Tensor | None]:
    """Returns the dict that holds the parameters of ``module`` itself; what it holds is what ``module`` computes with.

    Private: torch.nn.Module._parameters
    Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/nn/modules/module.py
    Checked: torch 2.11, 2.12, 2.13
    Reason: ``setattr`` takes no other tensor in the place of a parameter; ``torch.func.functional_call`` calls the module itself,
        whose ``forward`` this is needed in.
    """
    return module._parameters  # type: ignore[return-value]  # declared for parameters alone
