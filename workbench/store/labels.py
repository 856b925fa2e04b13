"""What people change of a run after it was made: name, tags, note and group, and whether it is in the lists."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace

from workbench.errors import UsageError
from workbench.store.directory import RunDirectory
from workbench.store.state import state_of

MAX_NAME, MAX_TAG, MAX_NOTE = 200, 50, 10_000
"""Characters."""


def relabel(
    run: RunDirectory,
    *,
    name: str | None = None,
    tags: Iterable[str] | None = None,
    note: str | None = None,
    group: str | None = None,
) -> None:
    """Changes the given labels. A name, a group and a tag are one line; a tag has no comma, which separates tags.

    Raises:
        UsageError: a label is too long, or a tag has a comma.
    """
    labels = run.labels()
    if name is not None:
        labels = replace(labels, name=_checked("name", " ".join(name.split()), MAX_NAME))
    if tags is not None:
        cleaned = [" ".join(tag.split()) for tag in tags]
        if wrong := next((tag for tag in cleaned if "," in tag), None):
            raise UsageError(f"a tag cannot contain a comma, but got {wrong!r}; give several tags one by one")
        labels = replace(labels, tags=tuple(dict.fromkeys(_checked("tag", tag, MAX_TAG) for tag in cleaned if tag)))
    if note is not None:
        labels = replace(labels, note=_checked("note", note.strip(), MAX_NOTE))
    if group is not None:
        labels = replace(labels, group=_checked("group", " ".join(group.split()), MAX_NAME) or None)
    run.write_labels(labels)


def add_tags(run: RunDirectory, tags: Iterable[str]) -> None:
    """Adds tags to those of the run.

    Raises:
        UsageError: a label is too long.
    """
    relabel(run, tags=[*(run.labels().tags or ()), *tags])


def remove_tags(run: RunDirectory, tags: Iterable[str]) -> None:
    """Removes tags that the run has."""
    unwanted = {" ".join(tag.split()) for tag in tags}
    relabel(run, tags=[tag for tag in run.labels().tags or () if tag not in unwanted])


def delete(run: RunDirectory) -> None:
    """Hides an ended run from the lists; its files stay, and ``restore`` brings it back.

    Raises:
        UsageError: the run has not ended.
    """
    if not state_of(run).is_terminal:
        raise UsageError(f"run {run.id} has not ended; cancel it first with `workbench cancel {run.id}`")
    run.write_labels(replace(run.labels(), deleted_at=time.time()))


def restore(run: RunDirectory) -> None:
    """Brings a deleted run back into the lists."""
    run.write_labels(replace(run.labels(), deleted_at=None))


def _checked(field: str, text: str, longest: int) -> str:
    if len(text) > longest:
        raise UsageError(f"a {field} can have at most {longest} characters, but got {len(text)}")
    return text
