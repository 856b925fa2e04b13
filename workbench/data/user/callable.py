"""A dataset from a user's own code: a callable that returns a torch dataset, a data loader, or the samples themselves."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import JsonValue, NonNegativeInt, TypeAdapter, field_validator

from workbench.data.base import Dataset, DatasetSummary
from workbench.sources.inspection import Inspection, Inspector
from workbench.sources.live import callable_source
from workbench.sources.source import Source
from workbench.spec.options import DatasetOptions, NoCost, OwnCode

if TYPE_CHECKING:
    from workbench.data.base import Samples


class UserDataOptions(DatasetOptions):
    """Options of a user's dataset."""

    name: str
    """Callable that returns the dataset: PATH.py:CALLABLE or package.module:CALLABLE."""

    options: dict[str, JsonValue] = {}
    """Keyword arguments of the callable."""

    num_classes: NonNegativeInt = 0
    """Number of classes, or of tokens; 0: that which the dataset has as num_classes or classes, or else one more than the largest
    target."""

    num_samples: NonNegativeInt = 0
    """Number of samples of an iterable dataset to keep in memory, in an order that the seed determines; 0: it is read in its own
    order during the run. Other datasets have their own number."""

    folder: Annotated[str, NoCost, OwnCode] = ""
    """Folder from which PATH.py starts; by default the current directory, in a recorded spec the run's copy of the code."""

    @field_validator("name")
    @classmethod
    def _is_source(cls, name: str) -> str:
        callable_source(name, "dataset.name")
        return name

    @property
    def source(self) -> Source:
        """The callable."""
        return callable_source(self.name, "dataset.name", self.folder)


@dataclass(frozen=True)
class Found:
    """What is known of a dataset without its samples."""

    summary: DatasetSummary


INSPECTOR = Inspector("workbench.runtime.dataset_process", Found)
"""The inspector of users' datasets, which keeps the answers in this process."""


class UserData(Dataset[UserDataOptions]):
    """Samples from a user's own code. Its summary is found by loading it once, in a process of its own."""

    name = "user"
    Options = UserDataOptions

    @property
    def label(self) -> str:
        return self.options.source.label

    @property
    def question(self) -> dict[str, Any]:
        """What the process that loads it is asked, besides the source."""
        return self.options.model_dump(mode="json", exclude={"name", "folder"})

    @functools.cached_property
    def inspection(self) -> Inspection[Found]:
        """What was found in the dataset, and its code.

        Raises:
            SpecError: it cannot be loaded or used.
        """
        return INSPECTOR.inspect(self.options.source, self.options.folder, self.question)

    def recorded_form(self, folder: Path) -> bytes:
        """Returns the contents of the file from which this is answered for code that is recorded in a folder."""
        return INSPECTOR.recorded_form(self.options.source, self.question, self.inspection, folder)

    def summary(self) -> DatasetSummary:
        found = self.inspection.found
        assert found is not None, "a refused dataset raises"
        return found.summary

    def load(self) -> Samples:
        from workbench.data.user.callable_modules import loaded

        return loaded(self)  # type: ignore[return-value]  # a stream has no length


def answered(request: bytes) -> tuple[UserData, TypeAdapter[Inspection[Found]]]:
    """Returns the dataset that a process is asked about, and the type of the answer."""
    table = TypeAdapter(dict[str, Any]).validate_json(request)
    return UserData(UserDataOptions.model_validate(table)), INSPECTOR.answers
