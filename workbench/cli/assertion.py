"""``--assert 'speedup > 1.2 and peak_memory_bytes < 1e9'``: column, operator, number, joined by ``and``."""

from __future__ import annotations

import math
import operator
import re
from dataclasses import dataclass
from typing import Any

from workbench.errors import SpecError
from workbench.registry import unknown
from workbench.store.tables import RUN_FIGURES

_OPERATORS = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_TERM = re.compile(r"\s*(\w+)\s*(>=|<=|==|!=|>|<)\s*(\S+)\s*")


@dataclass(frozen=True)
class Assertion:
    """One ``column operator number``."""

    column: str
    sign: str
    number: float

    def holds(self, row: dict[str, Any]) -> bool:
        """An empty value is false."""
        value = row[self.column]
        return value is not None and not math.isnan(value) and bool(_OPERATORS[self.sign](value, self.number))

    def __str__(self) -> str:
        return f"{self.column} {self.sign} {self.number:g}"


def parse(text: str) -> list[Assertion]:
    """The terms of an ``--assert``.

    Raises:
        SpecError: it does not parse, or names no column that holds a figure.
    """
    assertions = []
    for term in re.split(r"\band\b", text):
        match = _TERM.fullmatch(term)
        if match is None:
            raise SpecError("--assert", f"takes 'column operator number' joined by 'and', but got {term.strip()!r}")
        column, sign, value = match.groups()
        if column not in RUN_FIGURES:
            raise SpecError("--assert", unknown("column", column, list(RUN_FIGURES)))
        try:
            number = {"true": 1.0, "false": 0.0}.get(value.lower()) if value.isalpha() else float(value)
        except ValueError:
            number = None
        if number is None or math.isnan(number):
            raise SpecError("--assert", f"compares {column} with a number, but got {value!r}")
        assertions.append(Assertion(column, sign, number))
    return assertions
