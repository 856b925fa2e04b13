"""``--assert 'speedup > 1.2 and parity == "equal"'``: column, operator, number or verdict, joined by ``and``."""

from __future__ import annotations

import math
import operator
import re
from dataclasses import dataclass
from typing import Any

from workbench.api.store import RUN_FIGURES, VERDICTS
from workbench.errors import SpecError
from workbench.messages import unknown_name

_OPERATORS = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_TERM = re.compile(r"\s*(\w+)\s*(>=|<=|==|!=|>|<)\s*(\S+|'[^']*'|\"[^\"]*\")\s*")
_VERDICT = "parity_verdict"
_ALIASES = {"parity": _VERDICT}


@dataclass(frozen=True)
class Assertion:
    """One ``column operator number``, or ``parity == "equal"``."""

    column: str
    sign: str
    bound: float | str

    def holds(self, row: dict[str, Any]) -> bool:
        """Whether the row meets the assertion; an empty value never does."""
        value = row[self.column]
        is_empty = value is None or (isinstance(value, float) and math.isnan(value))
        return not is_empty and bool(_OPERATORS[self.sign](value, self.bound))

    def __str__(self) -> str:
        bound = repr(self.bound) if isinstance(self.bound, str) else f"{self.bound:g}"
        return f"{self.column} {self.sign} {bound}"


def parse(text: str) -> list[Assertion]:
    """Returns the terms of an ``--assert``.

    Raises:
        SpecError: the text does not parse, or a column is unknown or has neither figures nor verdicts.
    """
    assertions = []
    for term in re.split(r"\band\b", text):
        match = _TERM.fullmatch(term)
        if match is None:
            raise SpecError("--assert", f"expects terms 'column operator number' joined by 'and', but got {term.strip()!r}")
        column, sign, value = match.groups()
        column = _ALIASES.get(column, column)
        if column == _VERDICT:
            assertions.append(Assertion(column, sign, _verdict(sign, value.strip("'\""))))
            continue
        if column not in RUN_FIGURES:
            raise SpecError("--assert", unknown_name("column", column, [*RUN_FIGURES, *_ALIASES, _VERDICT]))
        try:
            number = {"true": 1.0, "false": 0.0}.get(value.lower()) if value.isalpha() else float(value)
        except ValueError:
            number = None
        if number is None or math.isnan(number):
            raise SpecError("--assert", f"{column} must be compared with a number, but got {value!r}")
        assertions.append(Assertion(column, sign, number))
    return assertions


def _verdict(sign: str, text: str) -> str:
    if sign not in ("==", "!="):
        raise SpecError("--assert", f"parity must be compared with == or !=, but got {sign!r}")
    if text not in VERDICTS:
        raise SpecError("--assert", unknown_name("verdict", text, list(VERDICTS)))
    return text
