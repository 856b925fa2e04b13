"""The process that builds a user's model to find what it consists of, started by module name:
``python -m workbench.runtime.inspection_process FOLDER``, with the request and then the answer as files in the folder."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from pathlib import Path

from pydantic import TypeAdapter

from workbench.data.base import DatasetSummary
from workbench.errors import SpecError
from workbench.models.user import UserModel, UserModelOptions
from workbench.models.user.inspect_modules import inspected
from workbench.models.user.inspection import ANSWER, BEGUN, REQUEST, STACK, Inspection, Refusal, Request, answer, request_in
from workbench.plan.model_summary import ModelSummary
from workbench.plan.tensor_plan import TensorPlan
from workbench.runtime.tensor_plan.of_model import tensor_plan_of
from workbench.sources.code import executed


def inspection(request: Request) -> Inspection:
    """Builds the model and looks at it."""
    options = UserModelOptions(name=request.name, options=request.options, loss=request.loss, cut_at=request.cut_at)
    source, refusal = options.source, None
    summary: ModelSummary | None = None
    plan: TensorPlan | None = None
    try:
        data = TypeAdapter(DatasetSummary).validate_python(request.data)
        with source.imports():  # forward may import, too
            model = UserModel(options, data)
            structure, summary = inspected(model)
            plan = tensor_plan_of(model, structure, summary, request.tensor_plan) if request.is_sliced else None
    except SpecError as error:
        summary, refusal = None, Refusal(error.field, error.message)
    return Inspection(executed(source), summary, refusal, tensor_plan=plan)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with (folder / STACK).open("w") as stack:
        faulthandler.enable(stack)  # of a crash
        faulthandler.register(signal.SIGUSR1, stack, all_threads=False)  # when it takes too long
        (folder / BEGUN).touch()
        answer(folder / ANSWER, inspection(request_in(folder / REQUEST)))
    sys.stdout.flush()
    os._exit(0)  # threads that the user's code started do not keep the process
