"""A live object as a model or dataset: one of a Python session, in a file that only a run of its user reads.

A pickle executes code when it is loaded. It is therefore loaded only by the processes of a run and of an inspection, only if the
user who loads it wrote it and nobody else could, and only if it has the hash that is recorded beside it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import io
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from workbench.errors import SpecError
from workbench.sources.failure import failure_text
from workbench.sources.source import Source

PREFIX = "live"
"""What stands before the colon in ``live:Net``."""
FILES = {
    "model.name": "live.pickle",
    "model.loss": "live-loss.pickle",
    "dataset.name": "live-dataset.pickle",
    "train.optimizer": "live-optimizer.pickle",
}
"""Path of the key that names an object → the file with it."""
_HASHES = "hashes.json"
"""File beside it with its hash, as beside all recorded code."""
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True)
class LiveSource(Source):
    """An object of a Python session, by the path of its file; the path is absolute unless no folder says where the file is."""

    @classmethod
    def parse(cls, text: str, field: str, folder: str = "") -> LiveSource:
        origin, _, attribute = text.rpartition(":")
        if origin == PREFIX:
            origin = str(Path(folder).resolve() / FILES[field]) if folder else FILES[field]
        elif folder and Path(origin).parent != Path(folder).resolve():
            raise SpecError(field, f"must be a path in {folder}, but got {text!r}")
        return cls(origin, attribute, field)

    @property
    def path(self) -> Path:
        return Path(self.origin)

    @property
    def _module_label(self) -> str:
        return PREFIX

    def check_file(self) -> None:
        """Checks that there is the file, and that only this user can have written and can read it.

        Raises:
            SpecError: it is not so.
        """
        with _opened(self.path, self.field):
            pass

    def load(self) -> Callable[..., Any]:
        """Returns the callable; of an object that is a module or a dataset itself, a function that returns it.

        Raises:
            SpecError: the file is not surely this user's own, its hash is not the recorded one, or loading it failed.
        """
        with _opened(self.path, self.field) as file:
            contents = file.read()
        try:
            recorded = json.loads(self.path.with_name(_HASHES).read_bytes())["files"][self.path.name]
        except (OSError, ValueError, KeyError, TypeError):
            recorded = None
        if recorded != hashlib.sha256(contents).hexdigest():
            text = f"{self.path} does not have the hash that {_HASHES} records beside it, and is not loaded"
            raise SpecError(self.field, text)
        import torch

        try:
            value: Any = torch.load(io.BytesIO(contents), map_location="cpu", weights_only=False)
        except (Exception, SystemExit) as error:
            raise SpecError(self.field, failure_text(error, f"loading {self.label}", self.folder, self.path)) from error
        is_itself = isinstance(value, torch.nn.Module) if self.field == "model.name" else not callable(value)
        return (lambda: value) if is_itself else value

    @contextlib.contextmanager
    def imports(self) -> Iterator[None]:
        """Does nothing: the object has the user's own code with it."""
        yield


def callable_source(text: str, field: str, folder: str = "") -> Source:
    """Returns the source of a callable that a text names.

    Raises:
        SpecError: the text has none of the forms.
    """
    origin = text.rpartition(":")[0]
    is_live = origin == PREFIX or Path(origin).name in FILES.values()
    return (LiveSource if is_live else Source).parse(text, field, folder)


def write(label: str, files: Mapping[str, bytes]) -> str:
    """Writes pickled objects into a folder that only this user can enter and that ends with this process; returns the folder.

    Args:
        label: ``live:Net``.
        files: Name of the file → its contents.
    """
    hashes = {name: hashlib.sha256(contents).hexdigest() for name, contents in files.items()}
    record = json.dumps({"source": label, "files": hashes})
    made = _folders().get(record)
    if made is None or not Path(made.name, _HASHES).is_file():
        made = _folders()[record] = tempfile.TemporaryDirectory(prefix="workbench-live-")  # of mode 0700
        for name, contents in files.items():
            descriptor = os.open(Path(made.name, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(contents)
        Path(made.name, _HASHES).write_text(record, encoding="utf-8")
    return made.name


@functools.cache
def _folders() -> dict[str, tempfile.TemporaryDirectory[str]]:
    """Names and hashes of objects → the folder that holds them, in this process."""
    return {}


@contextlib.contextmanager
def _opened(path: Path, field: str) -> Iterator[IO[bytes]]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise SpecError(field, _absent(path, error)) from None
    with os.fdopen(descriptor, "rb") as file:
        if problem := _problem(os.fstat(descriptor), path.parent.stat()):
            raise SpecError(field, f"the live object in {path} is not loaded: {problem}")
        yield file


def _problem(file: os.stat_result, folder: os.stat_result) -> str:
    """Returns why an opened file is not surely this user's own, a clause; empty if it is."""
    if not stat.S_ISREG(file.st_mode):
        return "it is not a regular file"
    if file.st_uid != os.getuid():
        return f"it belongs to another user (uid {file.st_uid})"
    if file.st_mode & _OTHERS:
        return f"other users have access to it (mode {stat.S_IMODE(file.st_mode):04o} instead of 0600)"
    if folder.st_uid != os.getuid() or folder.st_mode & _OTHERS_WRITE:
        return f"other users can replace it (folder of uid {folder.st_uid} with mode {stat.S_IMODE(folder.st_mode):04o})"
    return ""


def _absent(path: Path, error: OSError) -> str:
    if not path.is_absolute():
        return (
            "a live object has no name to type: in Python, give the object itself, wb.UserModel(module) or wb.UserData(dataset),"
            " or repeat a run that has it, wb.run(wb.open_run(ID).spec)"
        )
    if isinstance(error, FileNotFoundError):
        return (
            f"there is no live object in {path.parent}: it is kept by the session that defined it until that ends, and by the"
            " runs of it; archives of runs leave it out"
        )
    if error.errno == errno.ELOOP:
        return f"the live object in {path} is not loaded: it is a symbolic link"
    return f"the live object in {path} cannot be opened ({error.strerror})"
