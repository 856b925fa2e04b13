"""Computes a module with divided mixtures on simulated workers, and compares it with the whole module, in fp64."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from workbench.plan.batch_modules import pieces
from workbench.plan.expert_split import ExpertMixture
from workbench.runtime.parity.dropout import without_random_draws
from workbench.runtime.tensor_plan.find import Subject
from workbench.runtime.tensor_plan.trial import (
    GLOBAL_NORM_SHARE,
    Call,
    Difference,
    failure,
    learning_rate_of,
    output_weights,
    relative_error,
)
from workbench.strategies.expert.gathered_mixture import divide_mixtures
from workbench.strategies.tensor.simulated import SimulatedMesh, Workers

_SAMPLES = {2: 4}
"""Number of workers → samples of each; two of more workers."""
_NUM_STEPS = 2


class UncountedError(Exception):
    """The communication of a step is not that of the formula; the message is a clause."""


Results = dict[str, Tensor]
"""Outputs, gradients and updated parameters by name."""


@dataclass(frozen=True)
class DividedTrial:
    """A module whose samples are divided over workers, each of which has a part of the experts.

    Args:
        subject: The module in fp64 without dropout, which is not changed, and its samples.
        size: Number of workers.
        rounding: Largest error that is rounding.
    """

    subject: Subject
    size: int
    rounding: float

    @cached_property
    def calls(self) -> list[Call]:
        """The call of each worker, with its samples."""
        count = self.size * _SAMPLES.get(self.size, 2)
        inputs, targets = pieces(self.subject.inputs(count), self.size), self.subject.targets(count)
        targets = [None] * self.size if targets is None else pieces(targets, self.size)

        def part(values: Sequence[Any], rank: int) -> Callable[[int], Any]:
            return lambda count: values[rank]

        subject = self.subject
        return [
            Subject(subject.root, part(inputs, rank), part(targets, rank), subject.output).call(count)
            for rank in range(self.size)
        ]

    @cached_property
    def reference(self) -> tuple[list[Results], float]:
        """What the whole module computes of each worker's samples, one after the other, with the sum of their gradients; and the
        learning rate."""
        module, rate = copy.deepcopy(self.subject.root), 0.0
        results: list[Results] = [{} for _ in self.calls]
        for step in range(_NUM_STEPS):
            for call, result in zip(self.calls, results, strict=True):
                result |= _passed(module, call, step)
            rate = rate or learning_rate_of(module)
            after = _updated(module, step, rate, gradients_of(module))
            for result in results:
                result |= after
        for call, result in zip(self.calls, results, strict=True):
            result |= _evaluated(module, call)
        return results, rate

    def computed(self, mixtures: Sequence[ExpertMixture]) -> list[Results]:
        """Returns what each worker computes."""
        modules = [copy.deepcopy(self.subject.root) for _ in self.calls]
        _, rate = self.reference

        def work(mesh: SimulatedMesh) -> Results:
            rank = mesh.get_local_rank()
            module, result = modules[rank], Results()
            divide_mixtures(module, mixtures, mesh, module, _SAMPLES.get(self.size, 2))
            divided = {name for mixture in mixtures for names in mixture.parameters for name in names}
            for step in range(_NUM_STEPS):
                result |= _passed(module, self.calls[rank], step)
                if step == 0 and (problem := self._uncounted(mixtures, mesh)):
                    raise UncountedError(problem)
                result |= _updated(module, step, rate, averaged(gradients_of(module), divided, mesh))
            return result | _evaluated(module, self.calls[rank])

        return Workers(self.size).run(work)

    def _uncounted(self, mixtures: Sequence[ExpertMixture], mesh: SimulatedMesh) -> str:
        """Returns how the communication of a step differs from the formula, a clause; empty if it does not."""
        elements = list[int]()
        for mixture in mixtures:
            for tensor in (*mixture.taken, *(tensor for tensor in mixture.returned if tensor.is_summed)):
                count = tensor.elements * self.size * _SAMPLES.get(self.size, 2)
                elements += [count] * (2 if tensor.has_gradient else 1)
        counted = [communication.elements for communication in mesh.communication]
        expected, measured = sum(elements), sum(counted)
        return "" if expected == measured else f"it communicates {measured} elements in a step instead of {expected}"

    def problem(self, mixtures: Sequence[ExpertMixture]) -> str:
        """Returns what is computed wrongly with these mixtures, whose parameters have the names of the module, or why it does not
        run; empty if it is right."""
        try:
            expected = self.reference[0]
            computed = self.computed(mixtures)
        except UncountedError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - the user's code
            return failure(error)
        worst = Difference("", 0.0)
        for rank, (whole, part) in enumerate(zip(expected, computed, strict=True)):
            worst = max(worst, self._difference(whole, part, mixtures, rank), key=lambda difference: difference.error)
        covered = {name for part in computed for name in part}
        if missing := next((name for name in expected[0] if name not in covered), ""):
            worst = Difference(missing.partition(": ")[2], math.inf)
        return f"{worst} on {self.size} workers" if worst.error > self.rounding else ""

    def _difference(self, whole: Results, part: Results, mixtures: Sequence[ExpertMixture], rank: int) -> Difference:
        """Returns the tensor of a worker that differs most from its part of the whole module's."""
        slices = {name: m.num_experts // self.size for m in mixtures if m.slots is not None for name in m.parameters[0]}
        of_lists = {name for m in mixtures if m.slots is None for names in m.parameters for name in names}
        norms, worst = _norms(whole), Difference("", 0.0)
        for name, values in whole.items():
            parameter = name.partition("gradient of ")[2] or name.partition("parameter ")[2]
            if parameter in of_lists and name not in part:
                continue  # another worker has it
            count = slices.get(parameter, 0)
            own = values[rank * count : (rank + 1) * count] if count else values
            error = math.inf
            if name in part and part[name].shape == own.shape:
                error = relative_error(part[name], own, GLOBAL_NORM_SHARE * norms[_kind(name)])
            if error > worst.error:
                worst = Difference(name.partition(": ")[2], error)
        return worst


def _passed(module: nn.Module, call: Call, step: int) -> Results:
    """Computes outputs and adds up gradients."""
    with torch.enable_grad():
        with without_random_draws():
            outputs, _ = call(module)
        loss = sum((output.double() * output_weights(output, index)).sum() for index, output in enumerate(outputs))
        if isinstance(loss, Tensor) and loss.requires_grad:
            loss.backward()
    return {f"step {step}: output {index}": output.detach().double() for index, output in enumerate(outputs)}


def _evaluated(module: nn.Module, call: Call) -> Results:
    """Returns the outputs in eval mode."""
    module.eval()
    with torch.no_grad(), without_random_draws():
        outputs, _ = call(module)
    return {f"after: eval output {index}": output.double() for index, output in enumerate(outputs)}


def gradients_of(module: nn.Module) -> dict[str, Tensor]:
    """Returns the gradients of a module by the names of the parameters, zeros if there is none."""
    trained = ((name, p) for name, p in module.named_parameters() if p.requires_grad)
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in trained}


def averaged(gradients: dict[str, Tensor], divided: set[str], mesh: SimulatedMesh) -> dict[str, Tensor]:
    """Returns gradients with the sum over the workers of those of replicated parameters, as data parallelism averages them."""
    replicated = {name: gradient for name, gradient in gradients.items() if name not in divided}
    if not replicated:
        return gradients
    total = mesh.all_reduced(torch.cat([gradient.double().flatten() for gradient in replicated.values()]))
    parts = total.split([gradient.numel() for gradient in replicated.values()])
    summed = {name: part.view_as(replicated[name]) for name, part in zip(replicated, parts, strict=True)}
    return {**gradients, **summed}


def _updated(module: nn.Module, step: int, rate: float, gradients: dict[str, Tensor]) -> Results:
    """Takes a step with these gradients. Returns them and the updated parameters."""
    results = {f"step {step}: gradient of {name}": gradient.clone() for name, gradient in gradients.items()}
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name in gradients:
                parameter.sub_(gradients[name], alpha=rate)
                results[f"step {step}: parameter {name}"] = parameter.detach().clone()
            parameter.grad = None
    return results


def _kind(name: str) -> str:
    step, _, rest = name.partition(": ")
    return f"{step}: {rest.split(' ')[0]}"


def _norms(results: Results) -> dict[str, float]:
    norms: dict[str, float] = {}
    for name, tensor in results.items():
        norms[_kind(name)] = math.hypot(norms.get(_kind(name), 0.0), float(tensor.norm()))
    return norms
