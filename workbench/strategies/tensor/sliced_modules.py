"""Cuts modules of a user's model in place: their own code runs, with slices in the place of their parameters."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from workbench.plan.tensor_plan import ModuleSlices, SlicedModule
from workbench.strategies.tensor.attention_modules import slice_attention
from workbench.strategies.tensor.collectives import AnyMesh, copy_to_slices, gather_slices, part_of, reduce_parts, sliced
from workbench.strategies.tensor.kinds_modules import buffers_of, dims_of, num_channel_dims, sections_of, sizes_read
from workbench.torch_private.modules import parameters_of


def cut_modules(root: nn.Module, groups: Iterable[ModuleSlices], mesh_of: Callable[[ModuleSlices], AnyMesh]) -> None:
    """Cuts the modules of these groups in place.

    Args:
        mesh_of: Returns the workers of a group.
    """
    holders: dict[Tensor, list[tuple[nn.Module, str]]] = {}
    for module in root.modules():
        for name, parameter in parameters_of(module).items():
            if parameter is not None and not isinstance(parameter, DTensor):  # which another group has cut
                holders.setdefault(parameter, []).append((module, name))
    for module in root.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False  # of which only the fast path of its layers can compute, which takes no slices
    for group in groups:
        mesh, inputs = mesh_of(group), SharedInputs()
        for attribute in group.attributes:
            module = root.get_submodule(attribute.path)
            setattr(module, attribute.name, getattr(module, attribute.name) // mesh.size())
        if group.narrowed is not None:
            inputs.narrow_for(root.get_submodule(group.narrowed), mesh.size())
        for part in group.modules:
            _cut(root.get_submodule(part.path), part, mesh, inputs, holders)


class SharedInputs:
    """Inputs of the column layers of a group: the gradients of those that take the same tensor are summed once."""

    def __init__(self) -> None:
        self._source: Tensor | None = None
        self._copy: Tensor | None = None
        self._narrow: Tensor | None = None
        self._whole: Tensor | None = None

    def narrow_for(self, module: nn.Module, size: int) -> None:
        """Gives a module a part of the features of its input."""

        def narrowed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            values = [*args, *kwargs.values()]
            self._whole = values[0]
            self._narrow = values[0] = values[0][..., : values[0].shape[-1] // size]
            return forward(*values[: len(args)], **dict(zip(kwargs, values[len(args) :], strict=True)))

        _wrap_forward(module, narrowed)

    def copied(self, x: Tensor, mesh: AnyMesh) -> Tensor:
        """Returns x, with a gradient that is summed over the workers; the whole of a part of the features."""
        if x is self._narrow and self._whole is not None:
            x = self._whole
        if self._source is not x or self._copy is None:
            self._source, self._copy = x, copy_to_slices(x, mesh)
        return self._copy

    def clear(self) -> None:
        """Forgets the input: the layers have used it."""
        self._source = self._copy = self._narrow = self._whole = None


def _cut(
    module: nn.Module,
    part: SlicedModule,
    mesh: AnyMesh,
    inputs: SharedInputs,
    holders: dict[Tensor, list[tuple[nn.Module, str]]],
) -> None:
    names = dims_of(module, part.style)
    sections = {name: sections_of(module, part, name) for name in names}
    for name, dim in names.items():
        whole = module.get_parameter(name)
        if tied := holders.pop(whole, None):  # else it was cut under another of its names
            part_of_it = sliced(whole, dim, mesh, sections[name])
            for holder, attribute in tied:
                setattr(holder, attribute, part_of_it)
    for name in buffers_of(module, part.style):
        setattr(module, name, part_of(module.get_buffer(name), 0, part.sections, mesh.size(), mesh.get_local_rank()).clone())
    for name in sizes_read(module, part.style):
        setattr(module, name, getattr(module, name) // mesh.size())
    if part.style == "heads":
        slice_attention(module, mesh)
        return
    kinds = {"column": _Column, "channel": _Cut, "row": _Row}
    kind = _Table if isinstance(module, nn.Embedding) else kinds.get(part.style, _Head)
    kind(module, part, mesh, inputs, tuple(names))


def _wrap_forward(module: nn.Module, wrapper: Callable[..., Any]) -> None:
    """Lets ``wrapper(forward, ...)`` compute the forward pass of a module: unlike hooks, recomputation repeats it, too."""
    module.forward = functools.partial(wrapper, module.forward)
    # nn.TransformerEncoderLayer in eval mode computes with the parameters of its modules, unless one of them has a hook.
    module.register_forward_pre_hook(lambda module, args: None)


class _Cut:
    """The forward pass of a module that is cut, in which its slices are plain tensors. What is cut by channel takes and returns
    slices, and needs nothing else."""

    withheld: tuple[str, ...] = ()
    """Parameters that the forward pass goes without."""

    def __init__(
        self, module: nn.Module, part: SlicedModule, mesh: AnyMesh, inputs: SharedInputs, names: tuple[str, ...]
    ) -> None:
        self.part, self.mesh, self.inputs, self.names = part, mesh, inputs, names
        self.held: dict[str, Tensor | None] = {}
        _wrap_forward(module, functools.partial(self._compute, module))

    def _compute(self, module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        parameters = parameters_of(module)
        self.held = {name: parameters[name] for name in (*self.names, *self.withheld) if parameters.get(name) is not None}
        for name in self.names:
            parameters[name] = _local(self.held[name])
        for name in self.withheld:
            if (value := self.held.get(name)) is not None:
                parameters[name] = torch.zeros_like(value) if type(module).__name__ == "Conv1D" else None
        try:
            if args:
                return self.leaving(module, forward(self.entering(module, args[0]), *args[1:], **kwargs))
            (name, x), *others = kwargs.items()
            return self.leaving(module, forward(**{name: self.entering(module, x), **dict(others)}))
        finally:  # recomputation stops where backward needs no more
            parameters.update(self.held)
            self.held = {}

    def entering(self, module: nn.Module, x: Tensor) -> Tensor:
        """Returns the input of this worker."""
        return x

    def leaving(self, module: nn.Module, output: Tensor) -> Tensor:
        """Returns the output for the code that called the module."""
        return output


class _Column(_Cut):
    """A layer cut by output features or channels."""

    def entering(self, module: nn.Module, x: Tensor) -> Tensor:
        return self.inputs.copied(x, self.mesh)


class _Row(_Cut):
    """A layer cut by input features or channels: its bias is added to the sum."""

    withheld = ("bias",)

    def entering(self, module: nn.Module, x: Tensor) -> Tensor:
        self.inputs.clear()
        return x

    def leaving(self, module: nn.Module, output: Tensor) -> Tensor:
        total, bias = reduce_parts(output, self.mesh), self.held.get("bias")
        return total if bias is None else total + bias.to(total.dtype).view(-1, *[1] * num_channel_dims(module))


class _Head(_Cut):
    """A linear layer cut by output features, which are gathered."""

    def entering(self, module: nn.Module, x: Tensor) -> Tensor:
        return copy_to_slices(x, self.mesh)

    def leaving(self, module: nn.Module, output: Tensor) -> Tensor:
        return gather_slices(output, output.dim() - 1, self.mesh)


class _Table(_Cut):
    """An embedding table cut by entries, of which those of other workers give zeros, or by features."""

    def __init__(self, module: nn.Module, *args: Any) -> None:
        super().__init__(module, *args)
        assert isinstance(module, nn.Embedding)
        self.padding = module.padding_idx
        self.is_foreign: Tensor | None = None

    def entering(self, module: nn.Module, x: Tensor) -> Tensor:
        assert isinstance(module, nn.Embedding)
        if self.part.style == "hidden":
            return x
        count = parameters_of(module)["weight"].shape[0]  # type: ignore[union-attr]
        first = self.mesh.get_local_rank() * count
        self.is_foreign = (x < first) | (x >= first + count)
        if self.padding is not None:
            module.padding_idx = self.padding - first if first <= self.padding < first + count else None
        return (x - first).masked_fill(self.is_foreign, 0)

    def leaving(self, module: nn.Module, output: Tensor) -> Tensor:
        assert isinstance(module, nn.Embedding)
        module.padding_idx = self.padding
        if self.part.style == "hidden":
            return gather_slices(output, output.dim() - 1, self.mesh)
        assert self.is_foreign is not None
        return reduce_parts(output.masked_fill(self.is_foreign[..., None], 0), self.mesh)


def _local(parameter: Tensor | None) -> Tensor | None:
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter
