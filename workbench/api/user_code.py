"""The code of a user's own model as a run keeps it: a copy in the run directory, from which its workers build."""

from __future__ import annotations

import os
from pathlib import Path

from workbench.errors import SpecError, UsageError
from workbench.models.user import UserModel
from workbench.models.user.inspection import INSPECTING, recorded_form
from workbench.plan.plan import Plan
from workbench.sources.code import INSPECTION
from workbench.spec.option_files import CODE, check_hash, with_file_hashes
from workbench.spec.run_spec import RunSpec
from workbench.store.directory import CODE_FOLDER
from workbench.store.records import CodeRecord


def refuse_while_inspecting() -> None:
    """Refuses to start a run in the process that looks at a model: the script that defines it would start itself again.

    Raises:
        UsageError: this is such a process.
    """
    if INSPECTING in os.environ:
        raise UsageError('starts a run while it is imported; put this below if __name__ == "__main__":')


def with_hashes(planned: Plan) -> RunSpec:
    """Returns the spec of a plan with absolute paths and the hashes of the files of its options and of the code of its model.

    Raises:
        SpecError: a file cannot be read, or has changed since the spec was recorded.
    """
    spec = planned.spec
    if isinstance(planned.model, UserModel):
        source, code = planned.model.options.source, planned.model.inspection.code
        check_hash(spec, CODE, f"the code of {source.label}", code.sha256)
        model = {**spec.as_dict()["model"], "name": source.label, "folder": str(source.folder) if source.path else ""}
        if loss := planned.model.options.loss_source:
            model["loss"] = loss.label
        spec = spec.replace(model=model, files={**(spec.files or {}), CODE: code.sha256})
    return with_file_hashes(spec)


def in_run_directory(spec: RunSpec) -> RunSpec:
    """Returns the spec as the run directory holds it: its model is built from the code there."""
    if CODE not in (spec.files or {}):
        return spec
    return spec.replace(model={**spec.as_dict()["model"], "folder": CODE_FOLDER})


def copy_of_code(planned: Plan) -> tuple[CodeRecord, dict[str, bytes]] | None:
    """Returns the record and the files of ``code/``; None without a model of the user's own.

    Raises:
        SpecError: a file has changed since the model was inspected.
    """
    if not isinstance(planned.model, UserModel):
        return None
    model = planned.model
    code, source = model.inspection.code, model.options.source
    is_copied = source.path is not None
    files = {name: Path(code.folder, name).read_bytes() for name in code.files} if is_copied else {}
    if not code.is_current:
        raise SpecError(CODE, f"the code of {source.label} changed while the run was submitted; submit it again")
    files[INSPECTION] = recorded_form(model.options, model.data, Path(CODE_FOLDER))
    record = CodeRecord(source.label, code.sha256, code.files if is_copied else {}, code.distribution, code.version)
    return record, files
