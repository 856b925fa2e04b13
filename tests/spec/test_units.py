"""Quantities are written with units in specs, on the command line and in forms; a wrong unit is refused."""

from __future__ import annotations

from typing import Any

import pytest

from workbench.errors import SpecError
from workbench.spec import RunSpec
from workbench.spec.files import override
from workbench.spec.units import DATA_SHEET_SIZE, DURATION, FLOP_RATE, RATE, SIZE, SIZE_MIB, Quantity


@pytest.mark.parametrize(
    ("quantity", "text", "value"),
    [
        (SIZE, "64MiB", 64 * 2**20),
        (SIZE, "1.5 GiB", 3 * 2**29),
        (RATE, "1Gbit/s", 125e6),
        (RATE, "450 GB/s", 450e9),
        (DURATION, "100us", 1e-4),
        (DURATION, "100 µs", 1e-4),
        (DURATION, "5min", 300.0),
        (SIZE_MIB, "64KiB", 0.0625),
        (FLOP_RATE, "19.5TFLOP/s", 19.5e12),
        (DATA_SHEET_SIZE, "80GB", 80 * 10**9),
    ],
)
def test_a_text_with_a_unit_is_a_number(quantity: Quantity, text: str, value: float) -> None:
    assert quantity.parse(text) == value
    assert quantity.parse(quantity.text(value)) == value


@pytest.mark.parametrize(
    ("quantity", "value", "text"),
    [
        (SIZE, 2**26, "64 MiB"),
        (SIZE, 1000, "1000 B"),
        (RATE, 125e6, "1 Gbit/s"),
        (RATE, 32e9, "32 GB/s"),
        (DURATION, 5e-5, "50 µs"),
        (DURATION, 300.0, "5 min"),
        (DURATION, 0.0, "0 ns"),
        (SIZE_MIB, 25.0, "25 MiB"),
        (DATA_SHEET_SIZE, 24 * 10**9, "24 GB"),
    ],
)
def test_a_number_is_shown_with_the_unit_of_fewest_digits(quantity: Quantity, value: float, text: str) -> None:
    assert quantity.text(value) == text


@pytest.mark.parametrize("value", [1 / 3, 1.0000000000000002e-7, 123456789.0, 1e300])
def test_no_number_is_rounded_for_its_text(value: float) -> None:
    text = DURATION.text(value)
    assert float(DURATION.parse(text)) == value


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (
            "measure.memory_budget_bytes=64MB",
            r"measure.memory_budget_bytes: takes a number of bytes, or one with B, KiB, .* '64MB'",
        ),
        (
            "link.bandwidth_bytes_per_s=1Gbps",
            r"link.bandwidth_bytes_per_s: takes a number of bytes per second, .*Gbit/s.* '1Gbps'",
        ),
        ("link.latency_s=100 m", r"link.latency_s: takes a number of seconds, .*such as 100us, but got '100 m'"),
        ("link.latency_s=-5ms", r"link.latency_s: takes a number of seconds"),
        ("launch.timeout_s=0min", r"launch.timeout_s: .*greater than 0"),
    ],
)
def test_a_wrong_unit_is_refused_with_what_is_allowed(paths: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        RunSpec(**override({}, model=None, dataset=None, splits=[], sets=[paths]))


def test_the_command_line_and_a_spec_take_units() -> None:
    sets = ["link.latency_s=100us", "link.bandwidth_bytes_per_s=1Gbit/s", "launch.timeout_s=1min"]
    table: dict[str, Any] = override({}, model=None, dataset=None, splits=["data=2,bucket_size_mib=512KiB"], sets=sets)
    spec = RunSpec(**table)
    assert spec == RunSpec(
        split={"data": {"size": 2, "bucket_size_mib": 0.5}},
        link={"latency_s": 1e-4, "bandwidth_bytes_per_s": 125e6},
        launch={"timeout_s": 60.0},
    )
    assert RunSpec(**spec.as_dict()) == spec
