"""What a model consists of, and which strategies can split it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workbench.models.user import UserModel
from workbench.plan.compatibility import refusal
from workbench.plan.model_summary import ModelSummary
from workbench.plan.resolve import plan
from workbench.plan.tensor_plan import TensorPlan
from workbench.registry import STRATEGIES
from workbench.spec.run_spec import RunSpec

__all__ = ["ModelReport", "TensorPlan", "inspect_model"]


@dataclass(frozen=True)
class ModelReport:
    """What ``workbench inspect`` shows."""

    summary: ModelSummary

    dataset: str
    """Label of the dataset."""

    num_workers: int
    """Number of workers of the splits."""

    refusals: dict[str, str | None]
    """Strategy → why it cannot split the model alone, one sentence; None if it can."""

    notes: dict[str, str]
    """Strategy that can split it → what it chooses for this model though no option says so."""

    code: dict[str, Any] | None = None
    """Of a user's own model: ``files`` with their hashes, or ``distribution`` and ``version``."""

    output: str = ""
    """What the user's code printed."""

    tensor_plan: TensorPlan | None = None
    """How modules of a user's own model can be cut along the tensor axis."""


def inspect_model(spec: RunSpec, num_workers: int = 2) -> ModelReport:
    """Returns what the model of a spec consists of, and which strategies can split it over so many workers.

    Raises:
        SpecError: the model cannot be built, or does not accept the dataset.
    """
    splits = {name: {name: STRATEGIES.get(name).plain_options(num_workers)} for name in STRATEGIES.names()}
    # First: it finds what the others need, and the tensor plan.
    of_tensor = refusal({**spec.as_dict(), "split": splits["tensor"]})
    planned = plan(spec.replace(split={}))
    refusals = {
        name: of_tensor if name == "tensor" else refusal({**spec.as_dict(), "split": split}) for name, split in splits.items()
    }
    accepted = [name for name, why in refusals.items() if why is None]
    notes = {name: "; ".join(plan(spec.replace(split=splits[name])).notes) for name in accepted}
    if not isinstance(planned.model, UserModel):
        return ModelReport(planned.full_model, planned.dataset.label, num_workers, refusals, notes)
    of, found = planned.model.inspection, planned.model.found
    code = {"files": of.code.files, "distribution": of.code.distribution, "version": of.code.version}
    label, tensor_plan = planned.dataset.label, found.tensor_plan
    return ModelReport(planned.full_model, label, num_workers, refusals, notes, code, of.output, tensor_plan)
