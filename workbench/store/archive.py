"""Packs runs into a zip file, and imports such a file into a store. Run ids are kept; nothing is executed."""

from __future__ import annotations

import io
import json
import re
import shutil
import tempfile
import tomllib
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import IO, Any

from workbench.errors import UsageError
from workbench.store.directory import RunDirectory
from workbench.store.figures import Summary
from workbench.store.json_record import InvalidRecordError, NewerVersionError, R, Record, from_json
from workbench.store.listing import RUN_ID
from workbench.store.records import Environment, Labels, RunError, RunRecord
from workbench.store.run_status import RunStatus
from workbench.store.runs_table import row

MAX_BYTES = 4 * 2**30
"""Largest unpacked size of an archive; a typical run takes a few megabytes."""

_MOST = {"num_workers": 2**31, "threads_per_worker": 2**31, "created_at": 4e9}
"""Column → its largest value: what is larger, no table or clock can show (``created_at``: seconds since 1970, the year 2096)."""
_JSON: dict[str, type[Record]] = {
    "run.json": RunRecord,
    "status.json": RunStatus,
    "environment.json": Environment,
    "labels.json": Labels,
    "summary.json": Summary,
    "error.json": RunError,
}
_FILES = re.compile(
    r"(spec\.toml|(run|status|environment|labels|summary|error)\.json|events/rank-\d+\.jsonl|log/(rank-\d+|supervisor|owner)\.log"
    r"|(?!events/|log/)[a-z_]+/rank-\d+(\.[a-z]+){1,2})"
)
"""The files of a run directory; others are not extracted from an archive. Earlier versions wrote ``log/owner.log``."""


def pack(runs: Iterable[RunDirectory]) -> bytes:
    """Returns the run directories as a zip file, ``<run id>/…``."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for run in runs:
            for path in sorted(run.path.rglob("*")):
                name = path.relative_to(run.path).as_posix()
                if path.is_file() and not path.is_symlink() and _FILES.fullmatch(name):
                    archive.write(path, f"{run.id}/{name}")
    return packed.getvalue()


def import_runs(store: Path, source: Path | IO[bytes]) -> tuple[list[RunDirectory], list[str]]:
    """Copies ended runs from a zip file, a store or a directory of run directories into this store: all of them, or none if one
    is damaged.

    Returns:
        The new runs, and the ids of those that the store already had, including deleted runs, which stay unchanged.

    Raises:
        UsageError: the source is neither, contains no run, or contains a run that is damaged or has not ended.
    """
    (store / "runs").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".import-", dir=store) as directory:
        draft = Path(directory)
        if isinstance(source, Path) and source.is_dir():
            _copy(source, draft)
        else:
            _unpack(source, draft)
        runs = [RunDirectory(path) for path in sorted(draft.iterdir())]
        if not runs:
            raise UsageError("contains no run; expected directories, named by run id, with run.json, spec.toml and status.json")
        for run in runs:
            _check(run)
        new = [run for run in runs if not (store / "runs" / run.id).exists()]
        for run in new:
            run.path.rename(store / "runs" / run.id)
    existing = [run.id for run in runs if run not in new]
    return [RunDirectory(store / "runs" / run.id) for run in new], existing


def _copy(source: Path, draft: Path) -> None:
    """Copies the run directories of a store or a directory, or a single one."""
    inside = source / "runs" if (source / "runs").is_dir() else source
    directories = [source] if (source / "run.json").is_file() else sorted(inside.iterdir())
    for directory in directories:
        if not (directory / "run.json").is_file():
            continue
        for path in directory.rglob("*"):
            name = path.relative_to(directory).as_posix()
            if path.is_file() and not path.is_symlink() and _FILES.fullmatch(name):
                (draft / directory.name / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, draft / directory.name / name)


def _unpack(source: Path | IO[bytes], draft: Path) -> None:
    """Extracts the files of runs, wherever their directories are in the archive. Names are checked before they become paths."""
    try:
        with zipfile.ZipFile(source) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            if sum(entry.file_size for entry in entries) > MAX_BYTES:
                raise UsageError(f"exceeds the limit of {MAX_BYTES / 2**30:.0f} GiB when unpacked")
            roots = {
                PurePosixPath(entry.filename).parent for entry in entries if PurePosixPath(entry.filename).name == "run.json"
            }
            for entry in entries:
                path = PurePosixPath(entry.filename)
                root = next((parent for parent in path.parents if parent in roots), None)
                if root is None or not RUN_ID.fullmatch(root.name) or not _FILES.fullmatch(str(path.relative_to(root))):
                    continue
                target = draft / root.name / path.relative_to(root)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as packed, target.open("wb") as file:
                    shutil.copyfileobj(packed, file)
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, NotImplementedError, zlib.error) as error:
        raise UsageError(f"not a readable zip file ({error})") from None


def _wrong_columns(values: dict[str, Any]) -> list[str]:
    """Returns the columns of a row of ``runs`` whose values are out of range."""
    ids = [c for c in ("baseline_run_id",) if values[c] is not None and not RUN_ID.fullmatch(values[c])]
    return ids + [c for c, most in _MOST.items() if not 0 <= values[c] <= most]


def _check(run: RunDirectory) -> None:
    """Raises a ``UsageError`` if a part of the run cannot be read. The spec is only parsed: the plugins and files that it
    names need not exist on this machine."""
    problem = ""
    try:
        for name, kind in _JSON.items():
            if (run.path / name).exists():
                _read(kind, run.path / name)
        record, status = _read(RunRecord, run.path / "run.json"), _read(RunStatus, run.path / "status.json")
        tomllib.loads(run.spec_path.read_text(encoding="utf-8"))
        if not status.state.is_terminal:
            problem = f"it has not ended ({status.state})"
        elif record.run_id != run.id:
            problem = "the name of its directory is not its run id"
        elif wrong := _wrong_columns(row(run)):
            problem = f"invalid values of {', '.join(wrong)}"
        else:
            for table in sorted({path.parent.name for path in run.path.glob("*/rank-*.parquet")}):
                run.table(table)
    except FileNotFoundError as error:
        problem = f"{Path(error.filename).name} is missing"
    except (OSError, ValueError) as error:  # Arrow's and TOML's errors are ValueErrors
        problem = str(error).splitlines()[0].replace(f"{run.path.parent}/", "")  # the path in the archive
    if problem:
        raise UsageError(f"run {run.id} is damaged or incomplete, so that nothing was imported: {problem}")


def _read(kind: type[R], path: Path) -> R:
    try:
        return from_json(kind, json.loads(path.read_bytes()))
    except (InvalidRecordError, NewerVersionError) as error:
        raise ValueError(f"{path.name}: {error}") from None
    except ValueError:
        raise ValueError(f"{path.name} is damaged") from None
