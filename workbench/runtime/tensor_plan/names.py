"""Paths in groups of modules: relative to the module that contains them all, by structure, and in the module's parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from workbench.plan.tensor_plan import ModuleSlices, SlicedModule, SlicedParameter
from workbench.strategies.tensor.kinds_modules import dims_of, is_convolution, sections_of


def owner_of(paths: Sequence[str]) -> str:
    """Returns the path of the innermost module that contains all of these."""
    common = []
    for names in zip(*(path.split(".")[:-1] for path in paths), strict=False):
        if len(set(names)) > 1:
            break
        common.append(names[0])
    return ".".join(common)


def relative(path: str, owner: str) -> str:
    """Returns a path as seen from a module that contains it."""
    return path[len(owner) + 1 :] if owner else path


def joined(owner: str, path: str) -> str:
    """Returns the path of a part of a module, given as ``relative`` returns it."""
    return ".".join(filter(None, (owner, path)))


def undecided(root: nn.Module, parts: Sequence[SlicedModule]) -> ModuleSlices:
    """Returns a group of which nothing is known but its modules."""
    is_alone = all(part.style in ("vocabulary", "hidden") for part in parts)
    has_convolution = any(is_convolution(root.get_submodule(part.path)) for part in parts)
    is_attention = any(part.style == "heads" for part in parts)
    kind = "table" if is_alone else "attention" if is_attention else "convolution" if has_convolution else "linear"
    return ModuleSlices(kind, tuple(parts), (), 0, ())


def moved(group: ModuleSlices, to: Callable[[str], str]) -> ModuleSlices:
    """Returns a group with other paths."""
    return replace(
        group,
        modules=tuple(replace(part, path=to(part.path)) for part in group.modules),
        attributes=tuple(replace(attribute, path=to(attribute.path)) for attribute in group.attributes),
        summed=tuple(map(to, group.summed)),
        narrowed=None if group.narrowed is None else to(group.narrowed),
    )


def structure_of(module: nn.Module, owner: str, group: ModuleSlices) -> Any:
    """Returns what is equal for modules that are decided once: class, relative paths and shapes."""
    parts = tuple((relative(part.path, owner), part.style) for part in group.modules)
    shapes = tuple((name, tuple(tensor.shape)) for name, tensor in module.state_dict(keep_vars=True).items())
    frozen = tuple(name for name, parameter in module.named_parameters() if not parameter.requires_grad)
    return type(module), parts, shapes, frozen


def alike(groups: Sequence[ModuleSlices]) -> list[list[ModuleSlices]]:
    """Returns the groups by structure: equal but for the numbers in their paths."""
    by_structure: dict[Any, list[ModuleSlices]] = {}
    for group in groups:
        paths = tuple(".".join("*" if name.isdigit() else name for name in part.path.split(".")) for part in group.modules)
        by_structure.setdefault((group.kind, paths), []).append(group)
    return list(by_structure.values())


def parted(root: nn.Module, group: ModuleSlices) -> list[ModuleSlices]:
    """Returns each table and head as a group of its own, since each takes and returns whole tensors."""
    if group.kind != "table":
        return [group]
    kinds = ["embedding" if isinstance(root.get_submodule(part.path), nn.Embedding) else "head" for part in group.modules]
    return [replace(group, modules=(part,), kind=kind) for part, kind in zip(group.modules, kinds, strict=True)]


def cut_parameters(root: nn.Module, group: ModuleSlices) -> list[SlicedParameter]:
    """Returns the parameters that a group cuts, by their names in the module."""
    return [
        SlicedParameter(f"{part.path}.{name}", dim, sections_of(root.get_submodule(part.path), part, name))
        for part in group.modules
        for name, dim in dims_of(root.get_submodule(part.path), part.style).items()
    ]
