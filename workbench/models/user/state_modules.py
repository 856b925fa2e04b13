"""State that a module keeps between its calls in plain attributes, such as a counter: it is in no buffer."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from workbench.plan.call_state import CallState
from workbench.torch_private.dispatch import tree_flatten, tree_leaves, tree_map

_OF_TORCH = frozenset(vars(nn.Module()))
_PLAIN = (bool, int, float, complex, str, bytes, set, type(None))
_TOLERANCE = 1e-4
"""Largest relative difference of outputs in fp32 that is rounding."""


class Calls:
    """Two calls of a module with the same input and the same random numbers, and others in between, which are made anyway.

    Args:
        root: The module.
        inputs: Its input.
    """

    def __init__(self, root: nn.Module, inputs: Any) -> None:
        self.root, self._inputs = root, inputs
        self._buffers = _copied(dict(root.named_buffers()))
        self._outputs: list[list[Tensor]] = []
        self._before: dict[str, Any] = {}

    def inputs(self) -> Any:
        """Returns the input of the next of the two calls, and restores the buffers and the random numbers."""
        with torch.no_grad():
            for name, buffer in self.root.named_buffers():
                if name in self._buffers and self._buffers[name].shape == buffer.shape:
                    buffer.copy_(self._buffers[name])
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        for value in (value for module in self.root.modules() for value in vars(module).values()):
            if isinstance(value, torch.Generator):
                value.manual_seed(0)
        return _copied(self._inputs)

    def add(self, output: Any) -> None:
        """Adds the output of one of the two calls."""
        if not self._outputs:
            self._before = attributes(self.root)  # a cache is full now
        self._outputs.append([x.detach().clone() for x in tree_leaves(output) if isinstance(x, Tensor) and not x.is_meta])

    @property
    def state(self) -> CallState | None:
        """What the result depends on besides parameters, buffers and input; None if it does not, as far as is known."""
        changed = changed_attributes(self.root, self._before)
        if len(self._outputs) < 2 or not self._outputs[0]:  # the second call failed, or has no values
            return CallState(changed, is_certain=False) if changed else None
        pairs = zip(*self._outputs, strict=False)
        is_same = len(self._outputs[0]) == len(self._outputs[1]) and all(_is_close(one, two) for one, two in pairs)
        return None if is_same else CallState(changed, is_certain=True)


class Attributes:
    """Some attributes of the modules in ``root``, which can be saved and restored as buffers can.

    Args:
        names: Path of the module and name of each: ``layers.0.step``.
    """

    def __init__(self, root: nn.Module, names: Sequence[str]) -> None:
        parts = [name.rpartition(".") for name in names]
        self._owners = {
            name: (root.get_submodule(path), attribute) for name, (path, _, attribute) in zip(names, parts, strict=True)
        }

    def saved(self) -> dict[str, Any]:
        """Returns copies of them."""
        return {name: _copied(vars(m)[attribute]) for name, (m, attribute) in self._owners.items() if attribute in vars(m)}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Restores them; containers in place, since modules may share one."""
        for name, (module, attribute) in self._owners.items():
            if name not in saved:
                vars(module).pop(attribute, None)
                continue
            value, present = _copied(saved[name]), vars(module).get(attribute)
            if isinstance(present, list | deque) and type(present) is type(value):
                present.clear()
                present.extend(value)
            elif isinstance(present, dict | set) and type(present) is type(value):
                present.clear()
                present.update(value)
            else:
                vars(module)[attribute] = value


def attributes(root: nn.Module) -> dict[str, Any]:
    """Returns copies of the attributes of all modules that are no parameters, buffers, submodules or hooks."""
    return _copied(_attributes(root))


def changed_attributes(root: nn.Module, before: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of those that have changed since ``attributes`` returned ``before``."""
    after = _attributes(root)
    return tuple(name for name, value in before.items() if name in after and not _is_equal(value, after[name]))


def _attributes(root: nn.Module) -> dict[str, Any]:
    return {
        f"{path}.{name}".lstrip("."): value
        for path, module in root.named_modules()
        for name, value in vars(module).items()
        if name not in _OF_TORCH
    }


def _copied(value: Any) -> Any:
    """Returns a copy of containers, and of the tensors and sets in them; all else itself."""

    def leaf(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.detach().clone()
        return set(value) if isinstance(value, set) else value

    return tree_map(leaf, value)


def _is_equal(before: Any, after: Any) -> bool:
    """Whether values that can be compared are equal; objects that cannot are."""
    (one, of_one), (two, of_two) = tree_flatten(before), tree_flatten(after)
    return of_one == of_two and all(_is_equal_leaf(a, b) for a, b in zip(one, two, strict=True))


def _is_equal_leaf(before: Any, after: Any) -> bool:
    if isinstance(before, Tensor) and isinstance(after, Tensor):
        if before.shape != after.shape or before.dtype != after.dtype:
            return False
        return before.is_meta or after.is_meta or bool(((before == after) | (before != before)).all())
    if isinstance(before, _PLAIN) or isinstance(after, _PLAIN):
        return type(before) is type(after) and (before == after or before != before)
    return True


def _is_close(one: Tensor, two: Tensor) -> bool:
    if one.shape != two.shape or one.dtype != two.dtype:
        return False
    if not one.is_floating_point():
        return bool((one == two).all())
    difference = (one - two).masked_fill((one == two) | (one.isnan() & two.isnan()), 0.0)
    return float(difference.norm()) <= _TOLERANCE * float(two.nan_to_num(0, 0, 0).norm())
