"""The code of a user's own model, data and optimizer as a run keeps it: a copy from which its workers build."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from workbench.code_parts import CODE_PARTS, DATASET, MODEL, OPTIMIZER, CodePart
from workbench.data.user.callable import UserData
from workbench.errors import SpecError, UsageError
from workbench.models.user import UserModel
from workbench.models.user.inspection import recorded_form
from workbench.plan.plan import Plan
from workbench.sources.code import INSPECTION, Code
from workbench.sources.process import INSPECTING
from workbench.sources.source import Source
from workbench.spec.option_files import check_hash, with_file_hashes
from workbench.spec.run_spec import RunSpec
from workbench.store.records import CodeRecord


def refuse_while_inspecting() -> None:
    """Refuses to start a run in the process that looks at a model: the script that defines it would start itself again.

    Raises:
        UsageError: this is such a process.
    """
    if INSPECTING in os.environ:
        raise UsageError('starts a run while it is imported; put this below if __name__ == "__main__":')


@dataclass(frozen=True)
class _Own:
    """A part of a spec that is the user's own code."""

    part: CodePart
    source: Source
    code: Code
    recorded_form: Callable[[Path], bytes]
    """Given the folder of the code, returns what was found in it, for its file there."""

    other_names: dict[str, str] = field(default_factory=dict)
    """Other options of the part that name code beside it."""


def _own(planned: Plan) -> Iterator[_Own]:
    model, dataset, optimizer = planned.model, planned.dataset, planned.user_optimizer
    if isinstance(model, UserModel):
        loss = model.options.loss_source
        yield _Own(
            MODEL,
            model.options.source,
            model.inspection.code,
            partial(recorded_form, model.options, model.data, model.purpose),
            {"loss": loss.label} if loss else {},
        )
    if isinstance(dataset, UserData):
        yield _Own(DATASET, dataset.options.source, dataset.inspection.code, dataset.recorded_form)
    if optimizer is not None:
        yield _Own(OPTIMIZER, optimizer.source, optimizer.inspection.code, optimizer.recorded_form)


def with_hashes(planned: Plan) -> RunSpec:
    """Returns the spec of a plan with absolute paths and the hashes of the files of its options and of the user's own code.

    Raises:
        SpecError: a file cannot be read, or has changed since the spec was recorded.
    """
    spec = planned.spec
    for own in _own(planned):
        check_hash(spec, own.part.path, f"the code of {own.source.label}", own.code.sha256)
        folder = str(own.source.folder) if own.source.path else ""
        spec = own.part.moved(spec, folder, **{own.part.key: own.source.label}, **own.other_names)
        spec = spec.replace(files={**(spec.files or {}), own.part.path: own.code.sha256})
    return with_file_hashes(spec)


def in_run_directory(spec: RunSpec) -> RunSpec:
    """Returns the spec as the run directory holds it: the user's own objects are built from the code there."""
    for part in CODE_PARTS:
        if part.is_own(spec):
            spec = part.moved(spec, part.directory)
    return spec


def copies_of_code(planned: Plan) -> dict[CodePart, tuple[CodeRecord, dict[str, bytes]]]:
    """Returns the record and the files of the code of each part of a spec that is the user's own.

    Raises:
        SpecError: a file has changed since the code was inspected.
    """
    copies = {}
    for own in _own(planned):
        code, source, is_copied = own.code, own.source, own.source.path is not None
        files = {name: Path(code.folder, name).read_bytes() for name in code.files} if is_copied else {}
        if not code.is_current:
            raise SpecError(own.part.path, f"the code of {source.label} changed while the run was submitted; submit it again")
        files[INSPECTION] = own.recorded_form(Path(own.part.directory))
        record = CodeRecord(source.label, code.sha256, code.files if is_copied else {}, code.distribution, code.version)
        copies[own.part] = record, files
    return copies
