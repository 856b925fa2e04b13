"""The process that builds a user's optimizer to find its state, started by module name:
``python -m workbench.runtime.optimizer_process FOLDER``."""

from __future__ import annotations

from workbench.errors import SpecError
from workbench.optimizers.user import INSPECTOR, optimizer_source, request_of
from workbench.runtime.user_optimizer import found_in
from workbench.sources.code import executed
from workbench.sources.inspection import Inspection, Refusal
from workbench.sources.process import serve
from workbench.spec.train import Train


def answer(contents: bytes) -> bytes:
    """Builds the optimizer and takes a step."""
    request = request_of(contents)
    train = Train(
        optimizer=request.name,
        optimizer_folder=request.folder,
        optimizer_options=request.options,
        learning_rate=request.learning_rate,
    )
    found, refusal = None, None
    try:
        found = found_in(train, request.parameters)
    except SpecError as error:
        refusal = Refusal(error.field, error.message)
    return INSPECTOR.answers.dump_json(Inspection(executed(optimizer_source(train)), found, refusal))


if __name__ == "__main__":
    serve(answer)
