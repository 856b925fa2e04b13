"""Computes a module with slices on simulated workers and compares it with the whole module, in fp64."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from workbench.plan.parity import LOWER_ROUNDING
from workbench.plan.tensor_plan import ModuleSlices, SliceCommunication
from workbench.runtime.parity.dropout import turn_off_dropout, without_random_draws
from workbench.runtime.parity.lower_precision import LowerPrecision
from workbench.runtime.tensor_plan.place import calls_of
from workbench.strategies.tensor.collectives import part_of
from workbench.strategies.tensor.kinds_modules import buffers_of, dims_of, sections_of
from workbench.strategies.tensor.simulated import LikeOthers, SimulatedMesh, Workers
from workbench.strategies.tensor.sliced_modules import cut_modules
from workbench.torch_private.dispatch import tree_leaves, tree_map

_LEARNING_RATE, _UPDATE = 0.1, 1e-3
"""Largest learning rate, and norm of the first update relative to that of the parameters: larger steps, as of deep networks with
batch norms, amplify rounding. A MobileNetV2 of four 32 × 32 images, changed by 1e-15, moves in its second step by 8e-8,
without this limit by 2e-6; of two images by 5e-2 with it."""
ROUNDING, GLOBAL_NORM_SHARE = 1e-9, 1e-3
"""Largest error in fp64, and as of ``parity/tolerance.py``."""


@dataclass(frozen=True)
class Call:
    """A call of a module, with tensors on the CPU in fp64."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    targets: Any = None
    output: Callable[[Any, Any], Any] = lambda output, targets: output
    """Selects what is compared, given the output and the targets."""

    def __call__(self, module: nn.Module, device: str = "cpu") -> tuple[list[Tensor], list[Tensor]]:
        """Returns the floating-point tensors of the output, and those of the input that have a gradient."""
        inputs: list[Tensor] = []

        def copied(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return copy.deepcopy(value)
            new = value.detach().clone().to(device).requires_grad_(value.requires_grad)
            inputs.extend([new] * new.requires_grad)
            return new.clone() if new.requires_grad else new  # a leaf may not be written in place

        output = module(*tree_map(copied, self.args), **tree_map(copied, dict(self.kwargs)))
        return _floats(self.output(output, tree_map(copied, self.targets))), inputs

    def outputs(self, module: nn.Module) -> list[Tensor]:
        """Returns the floating-point tensors of the output for the arguments themselves."""
        return _floats(self.output(module(*self.args, **self.kwargs), self.targets))


@dataclass
class Results:
    """What one worker computes: by name the outputs, gradients, updated parameters and buffers of each step."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    communication: list[list[SliceCommunication]] = field(default_factory=list)
    """Of each group, in one pass, with the elements of all samples."""

    learning_rate: float = _LEARNING_RATE


@dataclass(frozen=True)
class Difference:
    """A tensor that the slices compute wrongly."""

    tensor: str
    error: float

    def __str__(self) -> str:
        if math.isinf(self.error):
            return f"{self.tensor} is missing on a worker, or has another shape"
        return f"{self.tensor} differs by {self.error:.2g}"


def prepared(module: nn.Module) -> nn.Module:
    """Returns a copy of a module in fp64, without dropout."""
    copied = copy.deepcopy(module).double().train()
    turn_off_dropout(copied)
    return copied


class Trial:
    """A module and a call of it.

    Args:
        module: as of ``prepared``, or a part of it; it is not changed.
    """

    def __init__(self, module: nn.Module, call: Call) -> None:
        self.module, self.call = module, call
        self.num_steps = 2
        """Number of steps that are compared, of two workers; of more, it is one."""

    def has_shapes(self, groups: Sequence[ModuleSlices], size: int) -> str:
        """Returns why the module's code does not run with slices, or returns other shapes; empty if it does not."""
        try:
            device = "meta"
            expected = self._shapes([], size, device)
        except Exception:  # noqa: BLE001 - an operation without a meta kernel
            device = "cpu"
            expected = self._shapes([], size, device)
        try:
            shapes = self._shapes(groups, size, device)
        except Exception as error:  # noqa: BLE001 - the user's code, with tensors of other shapes
            return failure(error)
        return "" if shapes == expected else f"its output has the shape {shapes} instead of {expected}"

    def failure_with(self, groups: Sequence[ModuleSlices], size: int) -> str:
        """Returns where and why the module's code fails with slices, and the shapes that arrive there; empty if it runs."""
        module, paths = self._cut(groups, size, "cpu"), [part.path for group in groups for part in group.modules]
        with torch.no_grad(), without_random_draws(), calls_of(module, paths) as calls:
            try:
                self.call(module)
            except Exception as error:  # noqa: BLE001 - the user's code, with tensors of other shapes
                return f"the code fails in {calls.place(error)}: {failure(error)}"
        return ""

    def _shapes(self, groups: Sequence[ModuleSlices], size: int, device: str) -> list[tuple[int, ...]]:
        module = self._cut(groups, size, device)
        with torch.no_grad(), without_random_draws():
            return [tuple(output.shape) for output in self.call(module, device)[0]]

    def _cut(self, groups: Sequence[ModuleSlices], size: int, device: str) -> nn.Module:
        """Returns a copy with the slices of one worker, for a pass whose shapes alone count."""
        tensors = [*self.module.parameters(), *self.module.buffers()]
        module = copy.deepcopy(self.module, {id(tensor): _on(tensor, device) for tensor in tensors})
        mesh = SimulatedMesh(LikeOthers(size), 0)
        cut_modules(module, groups, lambda group: mesh)
        return module

    def communication(self, groups: Sequence[ModuleSlices], size: int) -> list[list[SliceCommunication]]:
        """Returns the communication of each group in one pass, with the elements of all samples."""
        return _compute(self._copied(groups), self.call, groups, SimulatedMesh(LikeOthers(size), 0), 1).communication

    @cached_property
    def reference(self) -> Results:
        """What the whole module computes."""
        return _compute(copy.deepcopy(self.module), self.call, (), None, self.num_steps, ends=True)

    @cached_property
    def rounding(self) -> float:
        """The largest error that is rounding."""
        module = copy.deepcopy(self.module)
        for parameter in module.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        lower = LowerPrecision(module)
        with torch.enable_grad(), without_random_draws(), lower:
            self.call(module)
        return ROUNDING if lower.cause is None else LOWER_ROUNDING

    def results(self, groups: Sequence[ModuleSlices], size: int) -> list[Results]:
        """Returns what each of ``size`` simulated workers computes."""
        steps, modules = self.num_steps if size == 2 else 1, [self._copied(groups) for _ in range(size)]
        rate = self.reference.learning_rate

        def work(mesh: SimulatedMesh) -> Results:
            module, ends = modules[mesh.get_local_rank()], steps == self.num_steps
            return _compute(module, self.call, groups, mesh, steps, ends, rate)

        return Workers(size).run(work)

    def _copied(self, groups: Sequence[ModuleSlices]) -> nn.Module:
        """Returns a copy of the module but for the parameters that will be cut, since slices are copies."""
        cut = [self.module.get_parameter(name) for name in cut_dims(self.module, groups)]
        return copy.deepcopy(self.module, {id(parameter): parameter for parameter in cut})

    def summed(self, results: Sequence[Results]) -> tuple[str, ...]:
        """Returns the parameters of which each worker has a part of the gradient."""
        found = []
        for name, expected in self.reference.tensors.items():
            kind, _, parameter = name.partition("gradient of ")
            parts = [result.tensors.get(name) for result in results]
            if kind != "step 0: " or any(part is None or part.shape != expected.shape for part in parts):
                continue
            whole = torch.stack([part for part in parts if part is not None])
            is_whole = all(relative_error(part, expected) <= self.rounding for part in whole)
            if not is_whole and relative_error(whole.sum(0), expected) <= self.rounding:
                found.append(parameter)
        return tuple(found)

    @cached_property
    def _norms(self) -> dict[str, float]:
        """Norms of all tensors of a kind and step of the whole module."""
        norms: dict[str, float] = {}
        for name, tensor in self.reference.tensors.items():
            kind = _kind(name)
            norms[kind] = math.hypot(norms.get(kind, 0.0), _norm(tensor))
        return norms

    def difference(
        self, groups: Sequence[ModuleSlices], size: int, results: Sequence[Results] | None = None
    ) -> Difference | None:
        """Returns the tensor that differs most from the whole module's, of all workers; None if none does."""
        results = self.results(groups, size) if results is None else results
        dims, worst = cut_dims(self.module, groups) | _cut_buffers(self.module, groups), Difference("", 0.0)
        expected, norms = self.reference.tensors, self._norms
        for rank, result in enumerate(results):
            steps = {name.partition(":")[0] for name in result.tensors}
            computed = {name for name in expected if name.partition(":")[0] in steps}
            for name in computed | result.tensors.keys():
                whole, part = expected.get(name), result.tensors.get(name)
                if whole is not None and (cut := dims.get(_parameter(name))) is not None:
                    whole = part_of(whole, *cut, size, rank)
                error = math.inf
                if whole is not None and part is not None and whole.shape == part.shape:
                    error = relative_error(part, whole, GLOBAL_NORM_SHARE * norms[_kind(name)])
                if error > worst.error:
                    worst = Difference(name.partition(": ")[2], error)
        return worst if worst.error > self.rounding else None


def failure(error: Exception) -> str:
    """Returns what the user's code raised, in a line."""
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"


def cut_dims(module: nn.Module, groups: Iterable[ModuleSlices]) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Returns the first name of each parameter that is cut → its dim, and the sections along it."""
    first = {id(parameter): name for name, parameter in module.named_parameters()}
    return {
        first[id(module.get_parameter(f"{part.path}.{name}"))]: (dim, sections_of(module.get_submodule(part.path), part, name))
        for group in groups
        for part in group.modules
        for name, dim in dims_of(module.get_submodule(part.path), part.style).items()
    }


def _cut_buffers(module: nn.Module, groups: Iterable[ModuleSlices]) -> dict[str, tuple[int, tuple[int, ...]]]:
    """As ``cut_dims`` of the buffers that are cut."""
    parts = [part for group in groups for part in group.modules]
    return {f"{p.path}.{name}": (0, p.sections) for p in parts for name in buffers_of(module.get_submodule(p.path), p.style)}


def _compute(
    module: nn.Module,
    call: Call,
    groups: Sequence[ModuleSlices],
    mesh: SimulatedMesh | None,
    num_steps: int,
    ends: bool = False,
    learning_rate: float | None = None,
) -> Results:
    """Takes steps with a module: with the whole one without a mesh.

    Args:
        ends: whether to return the updated parameters and the output in eval mode, too.
        learning_rate: by default as the first gradient suggests.
    """
    results, meshes = Results(), list[SimulatedMesh]()
    if mesh is not None:
        meshes = [mesh.part() for _ in groups]
        of_group = dict(zip(map(id, groups), meshes, strict=True))
        cut_modules(module, groups, lambda group: of_group[id(group)])
    summed = {name for group in groups for name in group.summed}
    with torch.enable_grad():
        for step in range(num_steps):
            if mesh is not None:
                mesh.begin("forward")
            with without_random_draws():  # not around output_weights, which draw the gradients of the outputs
                outputs, inputs = call(module)
            tensors = {f"output {index}": output.detach() for index, output in enumerate(outputs)}
            loss = sum((output.double() * output_weights(output, index)).sum() for index, output in enumerate(outputs))
            if mesh is not None:
                mesh.begin("backward")
            if isinstance(loss, Tensor) and loss.requires_grad:
                loss.backward()
            if step == 0:
                results.communication = [list(part.communication) for part in meshes]
                results.learning_rate = learning_rate_of(module) if learning_rate is None else learning_rate
            tensors |= {f"gradient of input {i}": x.grad for i, x in enumerate(inputs) if x.grad is not None}
            for name, parameter in module.named_parameters():
                if parameter.grad is None:
                    continue
                if name in summed and mesh is not None:
                    parameter.grad = mesh.all_reduced(parameter.grad)
                tensors[f"gradient of {name}"] = parameter.grad
                with torch.no_grad():
                    parameter.sub_(parameter.grad, alpha=results.learning_rate)
                parameter.grad = None
            tensors |= {f"buffer {name}": b.clone() for name, b in module.named_buffers() if b.is_floating_point()}
            results.tensors |= {f"step {step}: {name}": tensor for name, tensor in tensors.items()}
        if ends:
            results.tensors |= {f"after: parameter {name}": parameter.detach() for name, parameter in module.named_parameters()}
            module.eval()
            with torch.no_grad(), without_random_draws():
                outputs, _ = call(module)
            results.tensors |= {f"after: eval output {index}": output for index, output in enumerate(outputs)}
    return results


def learning_rate_of(module: nn.Module) -> float:
    trained = [(float(p.detach().norm()), float(p.grad.norm())) for p in module.parameters() if p.grad is not None]
    parameters, gradients = (math.hypot(*norms) for norms in zip(*trained, strict=True)) if trained else (0.0, 0.0)
    return min(_LEARNING_RATE, _UPDATE * parameters / gradients) if gradients else _LEARNING_RATE


def _floats(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def output_weights(output: Tensor, index: int) -> Tensor:
    """Returns the gradient of the loss with respect to an output."""
    generator = torch.Generator().manual_seed(index)
    weights = torch.randn(output.shape, generator=generator, dtype=torch.float64) / math.sqrt(max(1, output.numel()))
    assert weights.all(), "a trial whose loss ignores an element of the output proves nothing; draws must not be fixed here"
    return weights


def _norm(tensor: Tensor) -> float:
    norm = float(tensor.norm())
    return norm if math.isfinite(norm) else float(tensor.nan_to_num(0, 0, 0).norm())


def relative_error(tensor: Tensor, expected: Tensor, least: float = 0.0) -> float:
    error = float((tensor - expected).norm())
    if not math.isfinite(error):  # infinite ones, as of masks, may be equal
        error = float((tensor - expected).masked_fill(tensor == expected, 0).norm())
    scale = max(_norm(expected), least)
    error = error / scale if scale else error
    return math.inf if math.isnan(error) else error


def _kind(name: str) -> str:
    step, _, rest = name.partition(": ")
    return f"{step}: {rest.split(' ')[0]}"


def _parameter(name: str) -> str:
    return name.partition("gradient of ")[2] or name.partition("parameter ")[2] or name.partition("buffer ")[2]


def _on(tensor: Tensor, device: str) -> Tensor:
    moved = tensor.detach().to(device)
    return nn.Parameter(moved, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else moved


def cut_twice(module: nn.Module, groups: Iterable[ModuleSlices]) -> str:
    """Returns the name of a tied parameter that is cut along different dims under its names; empty if there is none."""
    dims: dict[int, int] = {}
    for group in groups:
        for part in group.modules:
            for name, dim in dims_of(module.get_submodule(part.path), part.style).items():
                if dims.setdefault(id(module.get_parameter(f"{part.path}.{name}")), dim) != dim:
                    return f"{part.path}.{name}"
    return ""
