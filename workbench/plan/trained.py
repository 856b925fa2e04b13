"""Determines which parameters are trained, and how far backward passes reach."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from workbench.errors import SpecError
from workbench.messages import counted
from workbench.plan.layer_groups import ColumnRowPair, LayerGroup

if TYPE_CHECKING:
    from workbench.plan.model_summary import ModelSummary
    from workbench.spec.run_spec import RunSpec


def check_trained(spec: RunSpec, model: ModelSummary) -> None:
    """Rejects training without a parameter to update.

    Raises:
        SpecError: no parameter is trained.
    """
    if spec.mode != "train" or model.trained_parameters:
        return
    problem = "has no parameters; "
    if model.parameters:
        number = counted(len(model.distinct_parameters), "parameter")
        problem = f"has {number}, all of them frozen or unused; unfreeze one with requires_grad_(), or "
    raise SpecError("model.name", f'{model.name} {problem}set mode = "inference"')


def with_ends_of_backward(model: ModelSummary) -> ModelSummary:
    """Returns the model with the first pairs of layers marked like those that take samples, if nothing before them is trained:
    their inputs have no gradient. Parameters are taken in the order of the model."""
    names = [p.name for p in model.parameters]
    first = next((i for i, p in enumerate(model.parameters) if p.has_gradient), len(names))
    if all(p.has_gradient for p in model.parameters):
        return model

    def marked(group: LayerGroup) -> LayerGroup:
        if not isinstance(group, ColumnRowPair) or group.column is None:
            return group
        reached = any(name.rpartition(".")[0] != group.column for name in names[first : names.index(f"{group.column}.weight")])
        return group if reached else replace(group, takes_samples=True)

    return replace(model, groups=tuple(map(marked, model.groups)))
