"""A comparison: rows of ``runs`` side by side, which show themselves as the few figures that one compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from workbench.analysis.markup import cells, comparison_html
from workbench.store.columns import RUN_COLUMNS


class Comparison(pd.DataFrame):
    """The runs' rows with all columns of ``runs``; what is made from it is a plain frame."""

    _internal_names = [*pd.DataFrame._internal_names, "_rows", "_threads"]  # type: ignore[attr-defined]
    _internal_names_set = set(_internal_names)

    def __init__(self, rows: Sequence[dict[str, Any]], threads: Mapping[str, int]) -> None:
        super().__init__(list(rows), columns=list(RUN_COLUMNS))  # type: ignore[call-arg]
        self._rows, self._threads = list(rows), dict(threads)

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return pd.DataFrame

    def _repr_html_(self) -> str:
        return comparison_html(self._rows, self._threads)

    def __repr__(self) -> str:
        heads, texts = cells(self._rows, self._threads)
        return pd.DataFrame(texts, columns=heads).to_string(index=False)
