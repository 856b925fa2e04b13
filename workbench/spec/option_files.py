"""Records the SHA-256 of files that options name, so that a spec runs again only on the same contents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from workbench.code_parts import CODE_PARTS
from workbench.errors import SpecError
from workbench.spec.options import Options, ReadsFile
from workbench.spec.run_spec import RunSpec

_SHOWN = 12
_FOLDER = "hf:"
"""Begins the name of a folder that the library datasets has saved."""


def with_file_hashes(spec: RunSpec) -> RunSpec:
    """Returns the spec with absolute paths of the files of its model, dataset and strategies, and their hashes in ``files``.

    Raises:
        SpecError: a file cannot be read, or has changed since the spec was recorded.
    """
    table = spec.as_dict()
    code = {part.path for part in CODE_PARTS if part.is_own(spec)}
    hashes = {where: digest for where, digest in (spec.files or {}).items() if where in code}
    for where, path in option_files(spec):
        hashes[where] = _hash(where, path)
        check_hash(spec, where, str(path), hashes[where])
        *parents, name = where.split(".")
        inner = table
        for parent in parents:
            inner = inner[parent]
        inner[name] = f"{_FOLDER}{path}" if str(inner[name]).startswith(_FOLDER) else str(path)
    return RunSpec(**{**table, "files": hashes}) if hashes else spec


def check_hash(spec: RunSpec, where: str, what: str, digest: str) -> None:
    """Checks that what an option names is what the spec recorded, if it did.

    Raises:
        SpecError: it has changed.
    """
    recorded = (spec.files or {}).get(where, digest)
    if recorded != digest:
        raise SpecError(
            where,
            f"{what} has changed since this spec was recorded (SHA-256 {recorded[:_SHOWN]}… → {digest[:_SHOWN]}…)"
            "; restore the file, or remove the table files from the spec to use the current contents",
        )


def option_files(spec: RunSpec) -> Iterator[tuple[str, Path]]:
    """Yields the paths of options that name a file (``dataset.path``), with the absolute path of the file."""
    parts: dict[str, Options] = {"model": spec.model, "dataset": spec.dataset}
    parts |= {f"split.{name}": options for name, options in spec.split.items()}
    for where, options in parts.items():
        for name, field in type(options).model_fields.items():
            marks = [*field.metadata, *(mark for part in get_args(field.annotation) for mark in get_args(part))]
            value: Any = getattr(options, name)
            if value and any(mark is ReadsFile for mark in marks):
                yield f"{where}.{name}", Path(value.removeprefix(_FOLDER)).expanduser().resolve()


def _hash(where: str, path: Path) -> str:
    """Returns the hash of a file, or of the names and contents of all files in a folder."""
    try:
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.is_file())
            names = (f"{p.relative_to(path).as_posix()} {_hash(where, p)}\n".encode() for p in files)
            return hashlib.sha256(b"".join(names)).hexdigest()
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SpecError(where, f"cannot read {path} ({error.strerror})") from None
