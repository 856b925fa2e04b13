"""A user's own data: a file or folder, or a callable, named in the spec in place of a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workbench.data.base import Dataset
from workbench.data.user.arrays import Arrays, TokenFile
from workbench.data.user.callable import UserData
from workbench.data.user.image_folder import ImageFolder
from workbench.data.user.table import Table
from workbench.data.user.text_file import TextFile
from workbench.errors import SpecError
from workbench.registry import is_source

FORMS = (
    "a .csv, .tsv, .parquet, .arrow, .npz, .npy or .txt file, a folder of images by class, hf:PATH of one of .arrow files, or"
    " PATH.py:CALLABLE"
)
_BY_SUFFIX: dict[str, type[Dataset[Any]]] = {
    ".csv": Table,
    ".tsv": Table,
    ".parquet": Table,
    ".arrow": Table,
    ".npz": Arrays,
    ".npy": TokenFile,
    ".txt": TextFile,
    "": ImageFolder,
}


def dataset_of(name: str, field: str) -> type[Dataset[Any]]:
    """Returns the class that reads a file or folder, which need not exist: a run outlives its data.

    Raises:
        SpecError: files of this kind cannot be read.
    """
    if name.startswith("hf:"):
        return Table
    if is_source(name):
        return UserData
    found = _BY_SUFFIX.get(Path(name).suffix.lower())
    if found is None and Path(name).is_dir():
        return ImageFolder
    if found is None:
        raise SpecError(field, f"must be {FORMS}, but got {name!r}")
    return found
