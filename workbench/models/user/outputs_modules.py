"""The output of a module that the loss is computed of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def main_output(output: Any) -> Any:
    """Returns the output itself if it is a tensor; of several, ``logits`` if there is one of this name, else the first."""
    if isinstance(output, Mapping):
        return output["logits"] if "logits" in output else next(iter(output.values()), None)
    if isinstance(output, tuple | list):
        return getattr(output, "logits", output[0] if output else None)
    return output if isinstance(output, Tensor) else getattr(output, "logits", output)
