"""The file or folder of a user's data."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from workbench.data.base import Dataset
from workbench.errors import SpecError
from workbench.messages import nearest_name
from workbench.spec.options import DatasetOptions

O = TypeVar("O", bound=DatasetOptions)


class FileDataset(Dataset[O]):
    """A dataset that is a file or folder."""

    @property
    def label(self) -> str:
        return Path(self.options.name.removeprefix("hf:")).name

    @property
    def path(self) -> Path:
        """Absolute path.

        Raises:
            SpecError: there is no such file or folder.
        """
        return existing(self.options.name)


def existing(name: str) -> Path:
    """Returns the absolute path of a file or folder.

    Raises:
        SpecError: there is none.
    """
    path = Path(name.removeprefix("hf:")).expanduser().resolve()
    if not path.exists():
        others = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise SpecError("dataset.name", f"there is no file or folder {path}{nearest_name(path.name, others)}".rstrip("."))
    return path


def num_windows(num_tokens: int, length: int, units: str) -> int:
    """Returns the number of samples of so many tokens in a stream.

    Raises:
        SpecError: there is none.
    """
    if num_tokens <= length:
        raise SpecError("dataset.sequence_length", f"{num_tokens} {units} are fewer than a sample of {length} and a target")
    return (num_tokens - 1) // length
