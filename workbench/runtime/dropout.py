"""Dropout in the parity check: random masks would make two equal computations differ."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from workbench.models.dropout_modules import SubstituteDropout


def turn_off_dropout(model: nn.Module) -> list[str]:
    """Turns every dropout of ``model`` off, for good, whose masks may depend on the split: ``nn.Dropout`` and its relatives,
    and the ``dropout`` that ``nn.MultiheadAttention`` and ``nn.LSTM`` have as a number. Everything else stays in train mode.

    Returns:
        The names of the modules that had one.
    """
    names = []
    for name, module in model.named_modules():
        if isinstance(module, _DropoutNd | SubstituteDropout):
            module.eval()
            names.append(name)
        elif isinstance(getattr(module, "dropout", None), float) and module.dropout:
            module.dropout = 0.0
            names.append(name)
    return names
