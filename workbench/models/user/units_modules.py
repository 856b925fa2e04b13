"""Finds the units of a module: submodules that a forward pass calls once, between which it may be cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def find_units(root: nn.Module, run: Callable[[], Any]) -> list[str]:
    """Returns the paths of the units of a module in the order of their calls, found by ``run``, which calls the module.

    Repeated layers are units, however they are built inside; other modules are entered as long as they hold repeated layers or a
    ``nn.Sequential``. What is called more than once, or inside another unit, is none.
    """
    calls, order = Counter[nn.Module](), list[nn.Module]()

    def count(module: nn.Module, args: Any) -> None:
        calls[module] += 1
        order.append(module)

    hooks = [module.register_forward_pre_hook(count) for module in root.modules()]
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    path_of = {module: path for path, module in _candidates(root, "", calls)}
    return [path_of[module] for module in order if module in path_of]


def _candidates(parent: nn.Module, prefix: str, calls: Counter[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    repeated = _repeated(parent)
    for name, child in parent.named_children():
        path = f"{prefix}{name}"
        if not calls[child]:
            yield from _candidates(child, f"{path}.", calls)
        elif calls[child] == 1:
            if child not in repeated and _is_divisible(child):
                yield from _candidates(child, f"{path}.", calls)
            else:
                yield path, child


def _repeated(container: nn.Module) -> set[nn.Module]:
    """Returns the layers of a container that occur several times: of one class, with modules inside."""
    if not isinstance(container, _CONTAINERS):
        return set()
    layers = [child for child in container.children() if next(child.children(), None) is not None]
    classes = Counter(map(type, layers))
    return {layer for layer in layers if classes[type(layer)] > 1}


def _is_divisible(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) or any(_repeated(inside) for inside in module.modules())
