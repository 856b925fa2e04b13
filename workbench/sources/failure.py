"""Explains in one sentence why a user's code failed, with the user's own file and line."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from workbench.sources.places import is_installed

_STACK_LINE = re.compile(r'^  File "(?P<file>.+)", line (?P<line>\d+) in ', re.MULTILINE)
"""A line of a traceback that ``faulthandler`` wrote."""


def failure_text(error: BaseException, doing: str, folder: Path, file: Path | None = None) -> str:
    """Returns the sentence for an exception.

    Args:
        doing: What failed: ``building my_model.py:build``.
        folder: Folder with the user's own files, in one of which the last line is named.
        file: The user's file, named even if it belongs to an installed package.
    """
    lines = list(_lines_of(error))
    where = _last_own(lines, folder, file)
    reason = _reason(error, folder)
    return f"{doing} failed{where and f' in {where}'}: {reason}"


def stack_text(stack: str, folder: Path, file: Path | None = None) -> str:
    """Returns the innermost of the user's own lines in what ``faulthandler`` wrote, as `` in my_model.py, line 7``; empty if it
    has none."""
    lines = [(found["file"], int(found["line"])) for found in _STACK_LINE.finditer(stack)]
    where = _last_own(lines[::-1], folder, file)
    return f" in {where}" if where else ""


def _lines_of(error: BaseException) -> Iterator[tuple[str, int]]:
    for frame in traceback.extract_tb(error.__traceback__):
        yield frame.filename, frame.lineno or 0
    if isinstance(error, SyntaxError) and error.filename:
        yield error.filename, error.lineno or 0


def _last_own(lines: list[tuple[str, int]], folder: Path, file: Path | None) -> str:
    is_live = file is not None and file.suffix == ".pickle"  # whose code comes from anywhere
    for name, line in reversed(lines):
        path = Path(name)
        if path == file or (path.is_relative_to("/" if is_live else folder) and not is_installed(path)):
            return f"{_shown(path, folder)}, line {line}"
    return ""


def _shown(path: Path, folder: Path) -> str:
    """Returns the path in the folder; of code from anywhere, the file's name or that it is a notebook's cell."""
    if path.parent.name.startswith("ipykernel_"):
        return "a cell"
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name


def _reason(error: BaseException, folder: Path) -> str:
    first = _first_sentence(error)
    if isinstance(error, ModuleNotFoundError) and error.name and not _is_local(error.name, folder):
        return f"the package {error.name.split('.')[0]!r} is not installed"
    if (cause := _cause_with(error, "torchvision::nms does not exist")) is not None:
        return (
            f"torchvision is built for another version of torch or for CUDA ({cause}); install the torchvision that belongs to"
            f" torch {_version('torch')}, from the same index"
        )
    if (cause := _cause_with(error, "huggingface.co", "HF_HUB_OFFLINE")) is not None:
        return f"it requires a download from the Hugging Face hub ({cause})"
    if isinstance(error, EOFError):
        return "it reads standard input, which is empty while a model is built"
    if isinstance(error, SystemExit):
        return f"it ends the process (sys.exit({error.code!r}))"
    if _asks_for_gpu(error):
        return f"it asks for a GPU ({first}); build the model on the CPU, the workbench moves it to the worker's device"
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg}"
    return f"{type(error).__name__}: {first or 'no message'}"


def _first_sentence(error: BaseException) -> str:
    """Returns the first line of a message that is not empty, with the next one if it announces that."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2] if lines and lines[0].endswith(":") else lines[:1])


def _cause_with(error: BaseException | None, *parts: str) -> str | None:
    """Returns the first line with one of the parts, of the exception or of what caused it; packages that import lazily hide that
    behind their own."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        first = next((line for line in str(error).splitlines() if any(part in line for part in parts)), None)
        if first is not None:
            return first
        seen.append(error)
        error = error.__cause__ or error.__context__
    return None


def _asks_for_gpu(error: BaseException) -> bool:
    """Whether it is what torch raises without a GPU: in a build without CUDA, without a driver, or with no device visible."""
    text = str(error)
    return any(part in text for part in ("not compiled with CUDA", "No CUDA GPUs", "Found no NVIDIA driver", "no NVIDIA GPU"))


def _is_local(module: str, folder: Path) -> bool:
    """Whether the top-level package of a missing module is the user's own, so that it is the inner module that is missing."""
    top = module.split(".")[0]
    return (folder / f"{top}.py").exists() or (folder / top).is_dir()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "in use"
