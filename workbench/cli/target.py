"""Errors in writing the files that a user asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from workbench.errors import UsageError


@contextmanager
def written(subject: str) -> Iterator[None]:
    """Reports a file that cannot be written within this context as the user's mistake.

    Raises:
        UsageError: names the file or directory, and the reason.
    """
    try:
        yield
    except OSError as error:
        raise UsageError(f"{subject}: cannot write {error.filename} ({error.strerror}); use another file or directory") from None
