"""What people change of a run after it was made: name, tags, note and group, and whether it is in the lists."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from workbench.errors import UsageError
from workbench.store.directory import RunDirectory
from workbench.store.records import Labels
from workbench.store.state import state_of

MAX_NAME, MAX_TAG, MAX_NOTE = 200, 50, 10_000
"""Characters."""
_LOCK_S, _POLL_S = 5.0, 0.005


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
        UsageError: a label is too long, a tag has a comma, or another process does not end its change.
    """
    changed: dict[str, Any] = {}
    if name is not None:
        changed["name"] = _checked("name", " ".join(name.split()), MAX_NAME)
    if tags is not None:
        changed["tags"] = _checked_tags(tags)
    if note is not None:
        changed["note"] = _checked("note", note.strip(), MAX_NOTE)
    if group is not None:
        changed["group"] = _checked("group", " ".join(group.split()), MAX_NAME) or None
    _change(run, lambda labels: replace(labels, **changed))


def add_tags(run: RunDirectory, tags: Iterable[str]) -> None:
    """Adds tags to those of the run.

    Raises:
        UsageError: as of ``relabel``.
    """
    new = tuple(tags)
    _change(run, lambda labels: replace(labels, tags=_checked_tags((*(labels.tags or ()), *new))))


def remove_tags(run: RunDirectory, tags: Iterable[str]) -> None:
    """Removes tags that the run has."""
    unwanted = {" ".join(tag.split()) for tag in tags}
    _change(run, lambda labels: replace(labels, tags=tuple(tag for tag in labels.tags or () if tag not in unwanted)))


def delete(run: RunDirectory) -> None:
    """Hides an ended run from the lists; its files stay, and ``restore`` brings it back.

    Raises:
        UsageError: the run has not ended.
    """
    if not state_of(run).is_terminal:
        raise UsageError(f"run {run.id} has not ended; cancel it first with `workbench cancel {run.id}`")
    _change(run, lambda labels: replace(labels, deleted_at=time.time()))


def restore(run: RunDirectory) -> None:
    """Brings a deleted run back into the lists."""
    _change(run, lambda labels: replace(labels, deleted_at=None))


def _change(run: RunDirectory, change: Callable[[Labels], Labels]) -> None:
    """Replaces the labels by what ``change`` returns of them, while no other process changes them."""
    directory, deadline = os.open(run.path, os.O_RDONLY), time.monotonic() + _LOCK_S
    try:
        while True:
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UsageError(f"another process holds a lock on {run.path} for {_LOCK_S:g} s; try again") from None
                time.sleep(_POLL_S)
        run.write_labels(change(run.labels()))
    finally:
        os.close(directory)


def _checked_tags(tags: Iterable[str]) -> tuple[str, ...]:
    cleaned = [" ".join(tag.split()) for tag in tags]
    if wrong := next((tag for tag in cleaned if "," in tag), None):
        raise UsageError(f"a tag cannot contain a comma, but got {wrong!r}; give several tags one by one")
    return tuple(dict.fromkeys(_checked("tag", tag, MAX_TAG) for tag in cleaned if tag))


def _checked(field: str, text: str, longest: int) -> str:
    if len(text) > longest:
        raise UsageError(f"a {field} can have at most {longest} characters, but got {len(text)}")
    return text
