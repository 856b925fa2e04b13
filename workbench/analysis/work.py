"""Whether runs do the same work, so that their times and memory compare their splits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from workbench.errors import SpecError
from workbench.spec.files import read_table
from workbench.spec.work import work_differences

if TYPE_CHECKING:
    from workbench.store.directory import StoredRun

_Run = TypeVar("_Run", bound="StoredRun")
_MOST_NAMED = 3
"""Number of differences that a sentence names."""


def different_work(runs: Sequence[StoredRun]) -> str:
    """Returns a sentence if the runs do different work, which names up to three differences; else an empty string."""
    differ = work_differences([_table(run) for run in runs])
    if not differ:
        return ""
    more = f" and {len(differ) - _MOST_NAMED} more" if len(differ) > _MOST_NAMED else ""
    named = "; ".join(differ[:_MOST_NAMED]) + more
    return f"These runs do different work ({named}): their times and memory do not compare the splits."


def same_work(runs: Sequence[_Run], run: StoredRun) -> list[_Run]:
    """Returns those of the runs that do the work of this run."""
    table = _table(run)
    return [other for other in runs if not work_differences([table, _table(other)])]


def first_of_same_work(candidates: Sequence[_Run], runs: Sequence[_Run]) -> dict[str, _Run]:
    """Returns, by the id of each of the runs, the first candidate that does its work, if there is one. Reads each spec once."""
    tables = [(candidate, _table(candidate)) for candidate in candidates]
    first = {}
    for run in runs if candidates else []:
        table = _table(run)
        if same := next((candidate for candidate, other in tables if not work_differences([table, other])), None):
            first[run.id] = same
    return first


def _table(run: StoredRun) -> dict[str, Any]:
    """Returns the spec of a run as a table: with the defaults of today, or as recorded if its plugins are not installed."""
    try:
        return run.directory.spec().as_dict()
    except SpecError:
        return read_table(run.directory.spec_path)
