"""The one JSON document that ``--json`` prints."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any


def runs_document(rows: Iterable[dict[str, Any]]) -> str:
    """Returns ``{"runs": [row, …]}``. JSON has no NaN and no infinity: such values are null, and the exit code indicates them."""
    return json.dumps({"runs": [{column: _finite(value) for column, value in row.items()} for row in rows]}, allow_nan=False)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
