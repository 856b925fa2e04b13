"""Whether a model has anything to train."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.errors import SpecError
from workbench.words import counted

if TYPE_CHECKING:
    from workbench.plan.summary import ModelSummary
    from workbench.spec.run_spec import RunSpec


def check_trained(spec: RunSpec, model: ModelSummary) -> None:
    """Raises:
    SpecError: training would update no parameter.
    """
    if spec.mode != "train" or model.trained_parameters:
        return
    what = "has no parameters to train; "
    if model.parameters:
        number = counted(len(model.distinct_parameters), "parameter")
        what = f"has {number}, of which none is trained: each is frozen or unused; unfreeze one (requires_grad_()), or "
    raise SpecError("model.name", f'{model.name} {what}set mode = "inference"')
