"""Quantities as people write them, such as 64MiB, 1Gbit/s and 100us, and as the numbers of a spec."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from workbench.messages import listed

_PLAIN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_WITH_UNIT = re.compile(r"(\d+\.?\d*|\.\d+)\s*([^\d\s.]\S*)")


@dataclass(frozen=True)
class Quantity:
    """Marks an option that can be given as a text with a unit, ``Annotated[PositiveFloat, DURATION]``; forms show it so."""

    kind: str
    """What a number without a unit counts: ``bytes``."""

    units: Mapping[str, Decimal]
    """Unit → its value. Of two units that take equally many digits, the later is shown."""

    example: str
    is_integer: bool = False

    def __hash__(self) -> int:
        return hash(self.kind)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.parse, handler(source))

    @property
    def allowed(self) -> str:
        """What is allowed, as the beginning of a message: ``takes a number of bytes, or one with B, KiB or …``."""
        return f"takes a number of {self.kind}, or one with {listed(list(self.units), 'or')}, such as {self.example}"

    def parse(self, given: Any) -> Any:
        """Converts ``"64MiB"`` to 67108864; what is not a text, and a text that is a number, are unchanged.

        Raises:
            ValueError: a text that is neither a number nor one with a unit.
        """
        if not isinstance(given, str) or _PLAIN.fullmatch(given.strip()):
            return given
        match = _WITH_UNIT.fullmatch(given.strip())
        unit = self.units.get(match[2].replace("μ", "µ")) if match else None  # the Greek letter, for the sign of the prefix
        if match is None or unit is None:
            raise ValueError(self.allowed)
        value = Decimal(match[1]) * unit
        return int(value) if self.is_integer else float(value)

    def text(self, value: float) -> str:
        """Formats a number with the unit that takes the fewest digits: ``64 MiB``; ``parse`` returns the same number."""
        exact = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
        smallest = min(self.units, key=lambda unit: self.units[unit])
        written = [(_digits(exact / size), unit) for unit, size in self.units.items() if exact >= size]
        digits, unit = min(reversed(written or [(_digits(exact / self.units[smallest]), smallest)]), key=lambda w: len(w[0]))
        return f"{digits} {unit}" if self.parse(f"{digits} {unit}") == value else repr(value)


def _digits(value: Decimal) -> str:
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _binary(suffix: str = "") -> dict[str, Decimal]:
    return {f"{prefix}B{suffix}": Decimal(1024**power) for power, prefix in enumerate(("", "Ki", "Mi", "Gi", "Ti"))}


def _decimal(prefixes: str, unit: str, size: str = "1") -> dict[str, Decimal]:
    powers = {"n": -9, "µ": -6, "m": -3, " ": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15}
    return {f"{prefix.strip()}{unit}": Decimal(size).scaleb(powers[prefix]) for prefix in prefixes}


SIZE = Quantity("bytes", _binary(), "64MiB", is_integer=True)
"""Sizes in memory: binary units only, because a budget of 64MB could mean either."""
SIZE_MIB = Quantity("MiB", {unit: size / 2**20 for unit, size in _binary().items()}, "25MiB")
DATA_SHEET_SIZE = Quantity("bytes", {**_binary(), **_decimal("GT", "B")}, "80GB", is_integer=True)
"""Also the decimal units of data sheets."""
RATE = Quantity("bytes per second", {**_decimal(" kMGT", "bit/s", "0.125"), **_decimal(" kMGT", "B/s")}, "1Gbit/s")
DURATION = Quantity("seconds", {"us": Decimal("1e-6"), **_decimal("nµm ", "s"), "min": Decimal(60), "h": Decimal(3600)}, "100us")
FLOP_RATE = Quantity("FLOP/s", _decimal(" kMGTP", "FLOP/s"), "19.5TFLOP/s")
