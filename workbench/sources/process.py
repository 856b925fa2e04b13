"""A process of its own that executes a user's code to answer a question about it: no front end executes any."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import SpecError
from workbench.interpreter import module_command, same_packages
from workbench.sources.failure import stack_text
from workbench.sources.source import Source

TIME_LIMIT_S = 60.0
"""Longest time for an answer, with the import of the packages that it needs, but not of torch."""
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
class Answer:
    """What the process answered."""

    contents: bytes | None
    """None if it did not."""

    output: str = ""
    """What the user's code printed."""

    problem: str = ""
    """Why it did not, a sentence."""


def ask(source: Source, module: str, request: bytes, limit_s: float) -> Answer:
    """Asks a new process, which sees no GPU, reads nothing from standard input, and ends with all that it started.

    Args:
        module: Name of the module that the process runs, which calls ``serve``.
        limit_s: Longest time for the answer, in seconds.
    """
    if INSPECTING in os.environ:
        raise SpecError(
            source.field, f'{source.label} asks for an inspection while it is imported; put this below if __name__ == "__main__":'
        )
    with tempfile.TemporaryDirectory(prefix="workbench-inspection-") as directory:
        folder = Path(directory)
        (folder / REQUEST).write_bytes(request)
        with (folder / "output.txt").open("w+b") as output:
            process = subprocess.Popen(
                module_command(module, directory),
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
            return Answer((folder / ANSWER).read_bytes(), printed[-_MOST_OUTPUT:])
        stack = (folder / STACK).read_text(errors="replace") if (folder / STACK).exists() else ""
    where = stack_text(stack, source.folder, source.path)
    if code is None:
        return Answer(None, problem=f"building {source.label} took more than {limit_s:g} s; it was ended{where}")
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
    last = f" ({line})" if (line := next(iter(printed.strip().splitlines()[::-1]), "")) else ""
    return Answer(None, problem=f"building {source.label} failed{where}: its process {how}{last}")


def serve(answer: Callable[[bytes], bytes]) -> None:
    """Answers the request in the folder that the first argument of the process names, and ends the process."""
    folder = Path(sys.argv[1])
    with (folder / STACK).open("w") as stack:
        faulthandler.enable(stack)  # of a crash
        faulthandler.register(signal.SIGUSR1, stack, all_threads=False)  # when it takes too long
        (folder / BEGUN).touch()
        (folder / ANSWER).write_bytes(answer((folder / REQUEST).read_bytes()))
    sys.stdout.flush()
    os._exit(0)  # threads that the user's code started do not keep the process


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
