"""The code that a source executes: its own file and what this imports from beside it, with hashes; or a version of a package."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path

from workbench.errors import SpecError
from workbench.messages import counted
from workbench.sources.config_source import PACKAGE, ConfigSource
from workbench.sources.live import LiveSource
from workbench.sources.places import is_installed
from workbench.sources.source import Source

HASHES, INSPECTION = "hashes.json", "inspection.json"
"""Files beside recorded code: its hashes, and what was found in it."""


@dataclass(frozen=True)
class Code:
    """What determines the behaviour of a source, apart from its arguments."""

    folder: str
    """Absolute path that the names of the files start from."""

    files: dict[str, str] = field(default_factory=dict)
    """Path in the folder → SHA-256, of each file that is not part of an installed package."""

    distribution: str | None = None
    """Installed distribution with the module of ``package.module:CALLABLE``."""

    version: str | None = None

    @property
    def sha256(self) -> str:
        """Hash that is equal for equal code, wherever it lies."""
        return hashlib.sha256(json.dumps([self.files, self.distribution, self.version], sort_keys=True).encode()).hexdigest()

    @property
    def is_current(self) -> bool:
        """Whether the files and the installed version are still these."""
        if self.distribution is not None and _version(self.distribution) != self.version:
            return False
        return all(_hash(Path(self.folder, name)) == digest for name, digest in self.files.items())

    def moved(self, folder: Path) -> Code:
        """Returns the same code in another folder."""
        return replace(self, folder=str(folder))


def executed(source: Source) -> Code:
    """Returns the code that this process executed for a source: the files of the user's own modules that are imported now, from
    beside the file or, of a package that is not installed, from below the folder that holds it."""
    if isinstance(source, ConfigSource):
        return _of_config(source, set(_imported(source.folder)) if source.path else set())  # with the file of a loss
    if isinstance(source, LiveSource):
        return nearby(source)
    if source.path:
        folder = source.path.parent
        return Code(str(folder), _hashed(folder, {source.path, *_imported(folder)}))
    top = source.origin.split(".")[0]
    distribution = _distribution(source)
    module = sys.modules.get(top)
    places = [*getattr(module, "__path__", ()), getattr(module, "__file__", None)]
    folder = Path(next((place for place in places if place), ".")).resolve().parent
    own = {path for path in _imported(folder) if path.relative_to(folder).parts[0] in (top, f"{top}.py")}
    return Code(str(folder), _hashed(folder, own), distribution, distribution and _version(distribution))


def nearby(source: Source) -> Code:
    """Returns the code that a source may execute, as far as that is known before: the files in the folder of its file or package
    and in the folders there; or the version of an installed package."""
    if isinstance(source, ConfigSource):
        return _of_config(source, set())
    if isinstance(source, LiveSource):
        return Code(str(source.folder), _hashed(source.folder, set(source.folder.glob("*.pickle"))))  # with that of a loss
    if source.path is None and (distribution := _distribution(source)):
        return Code(str(source.folder), {}, distribution, _version(distribution))
    folder, is_found = source.folder, source.path or find_spec(source.origin.split(".")[0])
    return Code(str(folder), _hashed(folder, {*folder.glob("*.py"), *folder.glob("*/*.py")} if is_found else set[Path]()))


def _of_config(source: ConfigSource, more: set[Path]) -> Code:
    files = {source.path, *more} if source.path else more
    return Code(str(source.folder), _hashed(source.folder, files), PACKAGE, _version(PACKAGE))


def check_recorded(source: Source, folder_name: str) -> None:
    """Checks that code which a run recorded is as it was recorded, before it is executed.

    Args:
        folder_name: Folder that the spec names; without one, nothing was recorded.

    Raises:
        SpecError: a file was changed, added or removed, or the folder has another callable's code.
    """
    folder = Path(folder_name)
    is_recorded = (folder / HASHES).is_file()
    if not folder_name or (source.path and not is_recorded):
        return
    try:
        table = json.loads((folder / HASHES).read_bytes()) if is_recorded else {}
        recorded = dict(table.get("files", {}))
    except (ValueError, TypeError, AttributeError):
        raise SpecError(source.field, f"{folder / HASHES} is damaged; name your file, or remove model.folder") from None
    if table.get("source") != source.label:
        raise SpecError(source.field, f"the code of {source.label} is not recorded in {folder}; remove model.folder")
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    changed = sorted(name for name, digest in recorded.items() if _hash(folder / name) != digest)
    changed += sorted(present - recorded.keys() - {HASHES, INSPECTION})
    if changed:
        more = f" and {counted(len(changed) - 1, 'other file')}" if changed[1:] else ""
        raise SpecError(
            source.field,
            f"the recorded code of {source.label} has changed: {changed[0]}{more} in {folder}; restore it, or name your file",
        )


def _imported(folder: Path) -> Iterator[Path]:
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        path = Path(file).resolve() if isinstance(file, str) else None
        if path is not None and path.is_relative_to(folder) and not is_installed(path) and path.is_file():
            yield path


def _hashed(folder: Path, paths: set[Path]) -> dict[str, str]:
    hashes = {path.relative_to(folder).as_posix(): _hash(path) for path in sorted(paths)}
    return {name: digest for name, digest in hashes.items() if digest is not None}


def _hash(path: Path) -> str | None:
    """Returns the hash of a file; None if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _distribution(source: Source) -> str | None:
    return next(iter(packages_distributions().get(source.origin.split(".")[0], ())), None)


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
