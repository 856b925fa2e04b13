"""What a user's model consists of, found in a process of its own: no front end executes a user's code."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from workbench.plan.expert_split import ExpertSplit
from workbench.plan.model_summary import ModelSummary
from workbench.plan.sequence_split import SequenceSplit
from workbench.plan.tensor_plan import TensorPlan
from workbench.sources.inspection import Inspection, Inspector
from workbench.sources.process import TIME_LIMIT_S

if TYPE_CHECKING:
    from workbench.data.base import DatasetSummary
    from workbench.models.user import UserModelOptions


@dataclass(frozen=True)
class Found:
    """What is known of a model without building it."""

    summary: ModelSummary
    tensor_plan: TensorPlan | None = None
    """None unless it was looked for."""

    sequence: SequenceSplit | None = None
    """None unless it was tried."""

    experts: ExpertSplit | None = None
    """None unless mixtures were looked for."""


@dataclass(frozen=True)
class Purpose:
    """What a run does with a model, as far as the inspection depends on it."""

    is_sliced: bool = False
    """Whether it slices layers, so that a tensor plan is looked for."""

    has_context: bool = False
    """Whether it splits the sequence, so that it is tried if that can be."""

    generates: bool = False
    """Whether it generates tokens."""

    has_experts: bool = False
    """Whether it divides experts, so that mixtures are looked for."""


@dataclass(frozen=True)
class Request:
    """What the process is asked."""

    name: str
    folder: str
    """Folder of the source, where the loss is too; empty for a module of a package."""

    options: dict[str, Any]
    loss: str
    cut_at: tuple[str, ...]
    data: dict[str, Any]
    """The fields of the ``DatasetSummary``."""

    tensor_plan: dict[str, str]
    mixtures: tuple[str, ...]
    purpose: Purpose


INSPECTOR = Inspector("workbench.runtime.inspection_process", Found)
"""The inspector of users' models, which keeps the answers in this process."""


def inspect(
    options: UserModelOptions,
    data: DatasetSummary,
    limit_s: float = TIME_LIMIT_S,
    purpose: Purpose = Purpose(),
) -> Inspection[Found]:
    """Returns what a model consists of. Asks a process of its own, unless this was found before and the code is the same.

    Args:
        purpose: What the run does with it.

    Raises:
        SpecError: the model cannot be built or used, or takes longer; the message has the user's own file and line.
    """
    source, question = options.source, _question(options, data, purpose)
    larger = ({"is_sliced": True}, {"has_context": True}, {"has_experts": True})  # whose answers have this one in them
    is_plain = purpose == Purpose(generates=purpose.generates)
    others = [_question(options, data, replace(purpose, **more)) for more in larger if is_plain]
    found = next((known for other in others if (known := INSPECTOR.known(source, other))), None)
    return found or INSPECTOR.inspect(source, options.folder, question, limit_s)


def recorded_form(options: UserModelOptions, data: DatasetSummary, purpose: Purpose, folder: Path) -> bytes:
    """Returns the contents of the file from which ``inspect`` answers for code that is recorded in a folder."""
    found, question = inspect(options, data, purpose=purpose), _question(options, data, purpose)
    return INSPECTOR.recorded_form(options.source, question, found, folder)


def request_of(contents: bytes) -> Request:
    """Returns the request that the process got."""
    return TypeAdapter(Request).validate_json(contents)


def _question(options: UserModelOptions, data: DatasetSummary, purpose: Purpose) -> dict[str, Any]:
    """Returns the fields of the request without those that say where the code lies."""
    loss = options.loss_source
    values = {
        "options": options.options,
        "loss": loss.label if loss else "",
        "cut_at": options.cut_at,
        "data": asdict(data),
        "tensor_plan": options.tensor_plan,
        "mixtures": options.mixtures,
        "purpose": asdict(purpose),
    }
    plain: dict[str, Any] = json.loads(json.dumps(values))  # as read from a file: lists for tuples
    return plain
