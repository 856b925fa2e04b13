"""Where commands write what a user asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from workbench.errors import UsageError


@contextmanager
def written(subject: str) -> Iterator[None]:
    """Around writing: a target that cannot be written is the user's mistake.

    Raises:
        UsageError: which file or directory, and why.
    """
    try:
        yield
    except OSError as error:
        raise UsageError(f"{subject}: cannot write {error.filename} ({error.strerror}); use another file or directory") from None
