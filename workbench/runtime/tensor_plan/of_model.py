"""The tensor plan of a user's model, in the names of its summary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from workbench.models.dropout_modules import substitute_dropout
from workbench.models.user.module_model import ModuleModel
from workbench.models.user.outputs_modules import Result
from workbench.models.user.samples_modules import Samples
from workbench.models.user.structure_modules import WHOLE, Structure
from workbench.plan.model_summary import ModelSummary, block_of
from workbench.plan.tensor_plan import ModuleSlices, RejectedSlices, SlicedParameter, TensorPlan
from workbench.runtime.tensor_plan.find import Subject, find_plan
from workbench.runtime.tensor_plan.names import cut_parameters

MOST_PARAMETERS = 300_000_000
"""Size up to which a model is built to verify a plan, which takes a multiple of its memory."""


def tensor_plan_of(
    model: ModuleModel[Any], structure: Structure | None, summary: ModelSummary, edits: Mapping[str, str]
) -> TensorPlan:
    """Returns the tensor plan of a model.

    Args:
        structure: As ``inspected`` returns it.
        summary: Likewise.
        edits: As of ``find_plan``.

    Raises:
        SpecError: an edit is wrong.
    """
    if summary.num_parameters > MOST_PARAMETERS:
        reason = f"{summary.num_parameters:,} parameters are more than {MOST_PARAMETERS:,}, up to which a plan is verified"
        return TensorPlan(rejected=(RejectedSlices((), reason),))
    with built_for_trial(model) as root:
        plan = find_plan(subject_of(model, root, structure, summary), edits)
    names = summary_names(root, structure)
    return replace(plan, groups=tuple(_named(group, root, names) for group in plan.groups))


@contextmanager
def built_for_trial(model: ModuleModel[Any]) -> Iterator[nn.Module]:
    """Builds the module of a model, always the same, and computes with one thread: the simulated workers are threads already."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        torch.manual_seed(0)
        yield substitute_dropout(model.build())
    finally:
        torch.set_num_threads(num_threads)


def subject_of(model: ModuleModel[Any], root: nn.Module, structure: Structure | None, summary: ModelSummary) -> Subject:
    samples, result = Samples(model.data, "cpu"), Result(model.loss_function, summary.loss_reduction is not None)

    def output(value: Any, targets: Any) -> Any:
        return result.of(value, (None, targets), trains=True)

    blocks = [""] if structure is None else [block.path for block in structure.blocks if not block.parameters]
    return Subject(root, samples.inputs, samples.targets, output, blocks)


def summary_names(root: nn.Module, structure: Structure | None) -> dict[str, str]:
    """Returns the name of each parameter in the module → its name in the summary."""
    names: dict[str, str] = {}
    for name, _ in root.named_parameters(remove_duplicate=False):
        if structure is None:
            names[name] = f"{WHOLE}.{name}"
            continue
        for block in structure.blocks:
            if name in block.parameters:
                names[name] = f"{block.name}.{name.rpartition('.')[2]}"
            elif not block.parameters and name.startswith(f"{block.path}."):
                names[name] = f"{block.name}.{name[len(block.path) + 1 :]}"
    return names


def _named(group: ModuleSlices, root: nn.Module, names: Mapping[str, str]) -> ModuleSlices:
    parameters = [replace(parameter, name=names[parameter.name]) for parameter in cut_parameters(root, group)]
    summed = [names[name] for name in group.summed]
    return replace(group, parameters=tuple(parameters), summed=tuple(summed), blocks=_blocks(parameters, summed))


def _blocks(parameters: Sequence[SlicedParameter], summed: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(block_of(name) for name in (*(parameter.name for parameter in parameters), *summed)))
