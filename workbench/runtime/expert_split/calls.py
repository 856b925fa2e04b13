"""How a module calls its mixtures, seen in forward passes of random samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from workbench.plan.expert_split import MixtureTensor
from workbench.runtime.expert_split.candidates import Candidate
from workbench.torch_private.dispatch import tree_flatten, tree_leaves, tree_map


@dataclass
class MixtureCall:
    """The calls of a mixture in a forward pass."""

    count: int = 0
    args: tuple[Any, ...] = ()
    """Of the last call, detached copies."""

    kwargs: dict[str, Any] = field(default_factory=dict)
    taken: list[Any] = field(default_factory=list)
    """Values that it took, with their gradients."""

    returned: list[Any] = field(default_factory=list)
    expert_outputs: list[tuple[Any, Any]] = field(default_factory=list)
    """The first argument and the output of each call of an expert of a list."""


@contextmanager
def observed(root: nn.Module, candidates: Sequence[Candidate]) -> Iterator[dict[Candidate, MixtureCall]]:
    """Notes the calls of these mixtures."""
    calls = {candidate: MixtureCall() for candidate in candidates}
    with ExitStack() as hooks:
        for candidate, seen in calls.items():
            module = root.get_submodule(candidate.path)
            hooks.callback(module.register_forward_pre_hook(_entering(seen), with_kwargs=True).remove)
            hooks.callback(module.register_forward_hook(_leaving(seen)).remove)
            for expert in () if candidate.is_stacked else root.get_submodule(candidate.experts).children():
                hooks.callback(expert.register_forward_hook(_of_expert(seen)).remove)
        yield calls


def _entering(seen: MixtureCall) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
        seen.count += 1
        seen.args, seen.kwargs = copied(args), copied(kwargs)
        seen.taken = [_described(value) for value in tree_leaves((args, kwargs))]

    return hook


def _leaving(seen: MixtureCall) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        seen.returned = [_described(value) for value in tree_flatten(output)[0]]

    return hook


def _of_expert(seen: MixtureCall) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        seen.expert_outputs.append((args[0] if args else None, output))

    return hook


def copied(values: Any) -> Any:
    """Returns copies of tensors, without gradients."""
    return tree_map(lambda value: value.detach().clone() if isinstance(value, Tensor) else value, values)


@dataclass(frozen=True)
class Described:
    """Shape, format and gradient of a tensor."""

    shape: tuple[int, ...]
    element_bytes: int
    has_gradient: bool


def _described(value: Any) -> Described | None:
    if not isinstance(value, Tensor):
        return None
    return Described(tuple(value.shape), value.element_size(), value.requires_grad)


def batched(two: Sequence[Described | None], three: Sequence[Described | None], single: Sequence[Described | None]) -> list[Any]:
    """Returns the tensors with the tokens of the batch as dim 0, of values in passes of two and of three samples, and of two
    samples in single precision; as ``MixtureTensor``."""
    found = []
    for leaf, (one, other, less) in enumerate(zip(two, three, single, strict=True)):
        if one is None or other is None or less is None or not one.shape or 3 * one.shape[0] != 2 * other.shape[0]:
            continue
        elements = 1
        for size in one.shape:
            elements *= size
        fixed = one.element_bytes if one.element_bytes == less.element_bytes else None
        found.append(MixtureTensor(leaf, elements // 2, fixed, one.has_gradient))
    return found
