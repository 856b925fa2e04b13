"""Starting runs from a page."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from workbench.api import Run, submit
from workbench.api.specs import RunSpec
from workbench.dashboard.cache import runs_frame
from workbench.errors import SpecError, WorkbenchError

DEMONSTRATION = "demonstration"
"""Group of the four strategies."""


@dataclass(frozen=True)
class Started:
    """Result of a request to run specs."""

    runs: tuple[Run, ...]
    refused: tuple[str, ...]
    """A sentence for each spec that was not started."""

    @property
    def ids(self) -> list[str]:
        """Returns the ids of the runs."""
        return [run.id for run in self.runs]


def start(specs: Iterable[RunSpec], group: str | None = None) -> Started:
    """Submits each spec that can be run, as a group of this name, with a number if there is one of this name. The runs wait for
    each other and continue even if the page is closed."""
    runs, refused = [], []
    group = group and _free(group)
    for spec in specs:
        try:
            runs.append(submit(spec))
            if group:
                runs[-1].relabel(group=group)
        except SpecError as error:
            refused.append(f"{spec.split.label}: {error}")
        except WorkbenchError as error:
            refused.append(str(error))
    return Started(tuple(runs), tuple(refused))


def _free(group: str) -> str:
    """Returns the name, with the first number that makes it another than those of all groups of the store."""
    names = set(runs_frame()["group"])
    candidates = itertools.chain([group], (f"{group} {number}" for number in itertools.count(2)))
    return next(name for name in candidates if name not in names)
