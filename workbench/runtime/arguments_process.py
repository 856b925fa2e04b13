"""The process that loads a user's callable to find which arguments it takes, started by module name:
``python -m workbench.runtime.arguments_process FOLDER``."""

from __future__ import annotations

import json

from workbench.errors import SpecError
from workbench.sources.argument_inspection import INSPECTOR, Found
from workbench.sources.code import executed
from workbench.sources.config_source import model_source
from workbench.sources.inspection import Inspection, Refusal
from workbench.sources.process import serve


def answer(contents: bytes) -> bytes:
    """Loads the callable and reads its signature."""
    request = json.loads(contents)
    source = model_source(request["name"], request["field"], request["folder"])
    found, refusal = None, None
    try:
        found = Found(source.arguments())
    except SpecError as error:
        refusal = Refusal(error.field, error.message)
    return INSPECTOR.answers.dump_json(Inspection(executed(source), found, refusal))


if __name__ == "__main__":
    serve(answer)
