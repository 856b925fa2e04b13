"""The process that loads a user's dataset to find of which kind its samples are, started by module name:
``python -m workbench.runtime.dataset_process FOLDER``."""

from __future__ import annotations

from workbench.data.user.callable import Found, answered
from workbench.data.user.callable_modules import StreamedSamples, loaded, summary_of
from workbench.errors import SpecError
from workbench.sources.code import executed
from workbench.sources.inspection import Inspection, Refusal
from workbench.sources.process import serve


def answer(request: bytes) -> bytes:
    """Loads the dataset and looks at its first samples."""
    dataset, answers = answered(request)
    source, found, refusal = dataset.options.source, None, None
    try:
        samples = loaded(dataset)
        again = loaded(dataset) if isinstance(samples, StreamedSamples) else None
        found = Found(summary_of(samples, source, dataset.options.num_classes, again))
    except SpecError as error:
        refusal = Refusal(error.field, error.message)
    return answers.dump_json(Inspection(executed(source), found, refusal))


if __name__ == "__main__":
    serve(answer)
