"""What commands write: text for the terminal, the JSON document of ``--json``, and the files that a user asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from workbench.errors import UsageError

_CONTROL = dict.fromkeys(code for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t")


def printable(text: str) -> str:
    """Returns the text without control characters, with which a name or message could steer the terminal."""
    return text.translate(_CONTROL)


def runs_document(rows: Iterable[dict[str, Any]]) -> str:
    """Returns ``{"runs": [row, …]}``. JSON has no NaN and no infinity: such values are null, and the exit code indicates them."""
    return json.dumps({"runs": [{column: _finite(value) for column, value in row.items()} for row in rows]}, allow_nan=False)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def written(subject: str) -> Iterator[None]:
    """Reports a file that cannot be written within this context as the user's mistake.

    Raises:
        UsageError: names the file or directory, and the reason.
    """
    try:
        yield
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""  # a full disk names none
        raise UsageError(f"{subject}: cannot write{where} ({error.strerror}); use another file or directory") from None
