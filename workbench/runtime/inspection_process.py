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
from workbench.sources.code import executed


def inspection(request: Request) -> Inspection:
    """Builds the model and looks at it."""
    options = UserModelOptions(name=request.name, options=request.options, loss=request.loss, cut_at=request.cut_at)
    source, summary, refusal = options.source, None, None
    try:
        summary = _summary(options, TypeAdapter(DatasetSummary).validate_python(request.data))
    except SpecError as error:
        refusal = Refusal(error.field, error.message)
    return Inspection(executed(source), summary, refusal)


def _summary(options: UserModelOptions, data: DatasetSummary) -> ModelSummary:
    with options.source.imports():  # forward may import, too
        return inspected(UserModel(options, data))[1]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with (folder / STACK).open("w") as stack:
        faulthandler.enable(stack)  # of a crash
        faulthandler.register(signal.SIGUSR1, stack, all_threads=False)  # when it takes too long
        (folder / BEGUN).touch()
        answer(folder / ANSWER, inspection(request_in(folder / REQUEST)))
    sys.stdout.flush()
    os._exit(0)  # threads that the user's code started do not keep the process
