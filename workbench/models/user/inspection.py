"""What a user's model consists of, found in a process of its own: no front end executes a user's code."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import signal
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from workbench.errors import SpecError
from workbench.interpreter import module_command, same_packages
from workbench.plan.model_summary import ModelSummary
from workbench.plan.tensor_plan import TensorPlan
from workbench.sources.code import INSPECTION, Code, check_recorded, nearby
from workbench.sources.failure import stack_text
from workbench.sources.source import Source

if TYPE_CHECKING:
    from workbench.data.base import DatasetSummary
    from workbench.models.user import UserModelOptions

TIME_LIMIT_S = 60.0
"""Longest time for building a model and looking at it, with the import of the packages that it needs, but not of torch."""
MODULE = "workbench.runtime.inspection_process"
REQUEST, BEGUN, ANSWER, STACK = "request.json", "begun", "answer.json", "stack.txt"
"""Files between the two processes."""
INSPECTING = "WORKBENCH_INSPECTING"
"""Environment variable that is set in the process."""
_MOST_OUTPUT = 4000
"""Characters of output that are kept, the last ones."""
_START_S = 300.0
"""Longest time until the process has imported torch, which takes seconds, or a minute on a busy machine."""
_STACK_GRACE_S = 5.0
_POLL_S = 0.01


@dataclass(frozen=True)
class Request:
    """What is inspected; an equal request about equal code has an equal answer."""

    name: str
    """Name of the source."""

    options: dict[str, Any]
    loss: str
    cut_at: tuple[str, ...]
    data: dict[str, Any]
    """The fields of the ``DatasetSummary``."""

    tensor_plan: dict[str, str] = dataclasses.field(default_factory=dict)
    is_sliced: bool = False
    """Whether a tensor plan is looked for."""


@dataclass(frozen=True)
class Refusal:
    """A model that cannot be used: the parts of a ``SpecError``."""

    field: str
    message: str


@dataclass(frozen=True)
class Inspection:
    """The answer to a request."""

    code: Code
    summary: ModelSummary | None
    """None if the model was refused."""

    refusal: Refusal | None = None
    output: str = ""
    """What the user's code printed."""

    tensor_plan: TensorPlan | None = None
    """None unless it was looked for."""


_REQUESTS, _INSPECTIONS = TypeAdapter(Request), TypeAdapter(Inspection)


def inspect(
    options: UserModelOptions, data: DatasetSummary, limit_s: float = TIME_LIMIT_S, is_sliced: bool = False
) -> Inspection:
    """Returns what a model consists of. Asks a process of its own, unless this was found before and the code is the same.

    Args:
        is_sliced: Whether a tensor plan is needed.

    Raises:
        SpecError: the model cannot be built or used, or takes longer; the message has the user's own file and line.
    """
    source = options.source
    source.check_file()
    check_recorded(source, options.folder)
    fields: dict[str, Any] = json.loads(json.dumps(asdict(data)))  # as read from a file: lists for tuples
    loss = options.loss_source
    loss_name, edits = loss.name if loss else "", dict[str, str](options.tensor_plan)
    request = Request(source.name, options.options, loss_name, options.cut_at, fields, edits, is_sliced)
    key = _REQUESTS.dump_json(request).decode()
    with_plan = _REQUESTS.dump_json(dataclasses.replace(request, is_sliced=True)).decode()
    found = _known().get(key) or _known().get(with_plan) or _recorded(source, request, options.folder)
    if found is None or not found.code.is_current:
        found = _ask(source, request, limit_s)
    if found.code.files or found.code.distribution:  # else nothing would show that the code was changed
        _known()[key] = found
    if found.refusal:
        raise SpecError(found.refusal.field, found.refusal.message)
    return found


def recorded_form(options: UserModelOptions, data: DatasetSummary, folder: Path, is_sliced: bool) -> bytes:
    """Returns the contents of the file from which ``inspect`` answers for code that is recorded in a folder, so that workers and
    readers of a run need not inspect it again."""
    found, loss = inspect(options, data, is_sliced=is_sliced), options.loss_source
    name, loss_name = options.source.label, loss.label if loss else ""
    edits = dict[str, str](options.tensor_plan)
    request = asdict(Request(name, options.options, loss_name, options.cut_at, asdict(data), edits, is_sliced))
    found = dataclasses.replace(found, code=found.code.moved(folder) if options.source.path else found.code, output="")
    return json.dumps({"request": request, "inspection": _INSPECTIONS.dump_python(found, mode="json")}).encode()


def answer(path: Path, found: Inspection) -> None:
    """Writes the answer of the inspecting process."""
    path.write_bytes(_INSPECTIONS.dump_json(found))


def request_in(path: Path) -> Request:
    """Reads the request in the inspecting process."""
    return _REQUESTS.validate_json(path.read_bytes())


@functools.cache
def _known() -> dict[str, Inspection]:
    """Request → the answer to it in this process."""
    return {}


def _portable(source: Source, request: Request) -> Request:
    """Returns the request without where the file lies."""
    return dataclasses.replace(request, name=source.label, loss=request.loss.rpartition("/")[2])


def _recorded(source: Source, request: Request, folder: str) -> Inspection | None:
    """Returns the recorded answer; None if there is none to this request, or another version wrote it."""
    if not folder:
        return None
    try:
        table = json.loads((Path(folder) / INSPECTION).read_bytes())
        if table["request"] != json.loads(json.dumps(asdict(_portable(source, request)))):
            return None
        found = _INSPECTIONS.validate_python(table["inspection"])
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return None
    return dataclasses.replace(found, code=found.code.moved(Path(folder))) if source.path else found


def _ask(source: Source, request: Request, limit_s: float) -> Inspection:
    """Asks a new process, which sees no GPU, reads nothing from standard input, and ends with all that it started."""
    if INSPECTING in os.environ:
        raise SpecError(
            source.field, f'{source.label} asks for an inspection while it is imported; put this below if __name__ == "__main__":'
        )
    with tempfile.TemporaryDirectory(prefix="workbench-inspection-") as directory:
        folder = Path(directory)
        (folder / REQUEST).write_bytes(_REQUESTS.dump_json(request))
        with (folder / "output.txt").open("w+b") as output:
            process = subprocess.Popen(
                module_command(MODULE, directory),
                env=same_packages(CUDA_VISIBLE_DEVICES="", **{INSPECTING: "1"}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                if (code := _wait(process, folder / BEGUN, limit_s)) is None:
                    _request_stack(process, folder / STACK)
            finally:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            output.seek(0)
            printed = output.read().decode(errors="replace")
        if code == 0 and (folder / ANSWER).exists():
            found = _INSPECTIONS.validate_json((folder / ANSWER).read_bytes())
            return dataclasses.replace(found, output=printed[-_MOST_OUTPUT:])
        stack = (folder / STACK).read_text(errors="replace") if (folder / STACK).exists() else ""
    where = stack_text(stack, source.folder, source.path)
    if code is None:
        text = f"building {source.label} took more than {limit_s:g} s; it was ended{where}"
    else:
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
        last = f" ({line})" if (line := next(iter(printed.strip().splitlines()[::-1]), "")) else ""
        text = f"building {source.label} failed{where}: its process {how}{last}"
    return Inspection(nearby(source), None, Refusal(source.field, text))


def _wait(process: subprocess.Popen[bytes], begun: Path, limit_s: float) -> int | None:
    """Returns the exit code of the process; None if it still runs ``limit_s`` seconds after it began."""
    start_limit, limit = time.monotonic() + _START_S, None
    while (code := process.poll()) is None:
        if limit is None and begun.exists():
            limit = time.monotonic() + limit_s
        if time.monotonic() > (start_limit if limit is None else limit):
            break
        time.sleep(_POLL_S)
    return code


def _request_stack(process: subprocess.Popen[bytes], stack: Path) -> None:
    """Lets ``faulthandler`` write where the process is, which it does even if the interpreter is busy."""
    process.send_signal(signal.SIGUSR1)
    limit, previous, size = time.monotonic() + _STACK_GRACE_S, -1, 0
    while (not size or size != previous) and time.monotonic() < limit:  # until it grows no more
        time.sleep(_POLL_S)
        previous, size = size, stack.stat().st_size if stack.exists() else 0
