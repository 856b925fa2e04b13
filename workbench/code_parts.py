"""The parts of a spec that may name a user's own code, and where a run keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.registry import is_source

if TYPE_CHECKING:
    from workbench.spec.run_spec import RunSpec


@dataclass(frozen=True)
class CodePart:
    """A part of a spec that may name a user's own callable."""

    name: str
    """``model``, ``dataset`` or ``optimizer``."""

    section: str
    """Part of the spec that has its keys."""

    key: str
    """Key that names the callable."""

    folder_key: str
    """Key of the folder from which the name starts."""

    directory: str
    """Folder of a run that keeps its code."""

    @property
    def path(self) -> str:
        """Path of the key that names the callable, and under which the spec's ``files`` has the hash of the code."""
        return f"{self.section}.{self.key}"

    def is_own(self, spec: RunSpec) -> bool:
        """Whether the spec names the user's own callable."""
        return is_source(getattr(getattr(spec, self.section), self.key))

    def moved(self, spec: RunSpec, folder: str, **values: Any) -> RunSpec:
        """Returns the spec with the code in another folder, and other values of this part."""
        return spec.replace(**{self.section: {**spec.as_dict()[self.section], self.folder_key: folder, **values}})


MODEL = CodePart("model", "model", "name", "folder", "code")
DATASET = CodePart("dataset", "dataset", "name", "folder", "dataset_code")
OPTIMIZER = CodePart("optimizer", "train", "optimizer", "optimizer_folder", "optimizer_code")
CODE_PARTS = (MODEL, DATASET, OPTIMIZER)
