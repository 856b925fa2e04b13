"""The process that builds a user's model to find what it consists of, started by module name:
``python -m workbench.runtime.inspection_process FOLDER``."""

from __future__ import annotations

from pydantic import TypeAdapter

from workbench.data.base import DatasetSummary
from workbench.errors import SpecError
from workbench.models.user import UserModel, UserModelOptions
from workbench.models.user.inspect_modules import inspected
from workbench.models.user.inspection import INSPECTOR, Found, Request, request_of
from workbench.runtime.expert_split.of_model import expert_split_of
from workbench.runtime.sequence_trial import sequence_split_of
from workbench.runtime.tensor_plan.of_model import tensor_plan_of
from workbench.sources.code import executed
from workbench.sources.inspection import Inspection, Refusal
from workbench.sources.process import serve


def answer(contents: bytes) -> bytes:
    """Builds the model and looks at it."""
    request = request_of(contents)
    options = UserModelOptions(
        name=request.name, folder=request.folder, options=request.options, loss=request.loss, cut_at=request.cut_at
    )
    found, refusal = None, None
    try:
        found = _found(options, request)
    except SpecError as error:
        refusal = Refusal(error.field, error.message)
    return INSPECTOR.answers.dump_json(Inspection(executed(options.source), found, refusal))


def _found(options: UserModelOptions, request: Request) -> Found:
    with options.source.imports():  # forward may import, too
        model = UserModel(options, TypeAdapter(DatasetSummary).validate_python(request.data))
        model.generates, model.has_context = request.purpose.generates, request.purpose.has_context
        structure, summary = inspected(model)
        tensor_plan = tensor_plan_of(model, structure, summary, request.tensor_plan) if request.purpose.is_sliced else None
        groups = () if tensor_plan is None else tensor_plan.groups
        return Found(
            summary,
            tensor_plan,
            sequence_split_of(model, structure, summary, groups) if request.purpose.has_context else None,
            expert_split_of(model, structure, summary, request.mixtures) if request.purpose.has_experts else None,
        )


if __name__ == "__main__":
    serve(answer)
