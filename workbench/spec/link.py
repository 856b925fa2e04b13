"""The link between the workers of a run: that of the machine, or a slower one that is emulated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from workbench.spec.options import AppliesIf, Options
from workbench.spec.units import DURATION, RATE

PRESETS = {
    "nvlink": (2e-6, 450e9),  # fourth generation, one direction
    "pcie4": (5e-6, 32e9),  # sixteen lanes, one direction
    "ethernet-10g": (50e-6, 1.25e9),
    "ethernet-1g": (100e-6, 125e6),
    "wan": (20e-3, 12.5e6),  # 100 Mbit/s between cities
}
"""Name → latency in seconds and bandwidth in bytes per second: bandwidths of data sheets, and latencies of the right order of
magnitude."""


class LinkSpeed(Options):
    """Speed of a link; by default that of the machine."""

    preset: Literal["nvlink", "pcie4", "ethernet-10g", "ethernet-1g", "wan"] | None = None
    """Name of a link that provides the default latency and bandwidth; without it, only what is set below is emulated."""

    latency_s: Annotated[NonNegativeFloat, DURATION] | None = None
    """Latency per message in seconds, or with a unit such as "100us"; the default is the preset's latency, or 0 without a
    preset."""

    bandwidth_bytes_per_s: Annotated[PositiveFloat, RATE] | None = None
    """Bandwidth per direction in bytes per second, or with a unit such as "1Gbit/s"; the default is the preset's bandwidth, or
    unlimited without a preset."""

    @property
    def numbers(self) -> tuple[float | None, float | None]:
        """Latency in seconds and bandwidth in bytes per second; None if not set."""
        latency_s, bandwidth = PRESETS[self.preset] if self.preset else (None, None)
        latency_s = latency_s if self.latency_s is None else self.latency_s
        return latency_s, bandwidth if self.bandwidth_bytes_per_s is None else self.bandwidth_bytes_per_s

    @property
    def is_emulated(self) -> bool:
        """Whether a latency or bandwidth is set."""
        return self.numbers != (None, None)

    @property
    def label(self) -> str:
        """``wan``, ``100 µs 125 MB/s``, or ``none``."""
        latency_s, bandwidth = self.numbers
        if self.preset and (latency_s, bandwidth) == PRESETS[self.preset]:
            return self.preset
        parts = [] if latency_s is None else [_engineering(latency_s, ("s", "ms", "µs", "ns"))]
        parts += [] if bandwidth is None else [_engineering(bandwidth / 1e12, ("TB/s", "GB/s", "MB/s", "kB/s", "B/s"))]
        return " ".join(parts) or "none"


class Link(LinkSpeed):
    """The link between the workers of a run: one for all, others along some axes, or a faster one within nodes of several
    workers."""

    workers_per_node: PositiveInt | None = None
    """Number of consecutive ranks that form a node and share one link to the other nodes. By default, each worker has its own
    link to all others."""

    within: Annotated[LinkSpeed, AppliesIf("workers_per_node")] = Field(default_factory=LinkSpeed)
    """Link between the workers of a node; each worker has its own."""

    axes: dict[str, LinkSpeed] = Field(default_factory=dict)
    """Links by mesh axis (pipeline, data, context, tensor); each replaces the other links for communication along its axis."""

    @model_validator(mode="after")
    def _within_needs_nodes(self) -> Link:
        if self.workers_per_node is None and self.within.is_emulated:
            raise ValueError("within requires workers_per_node, the number of ranks in a node")
        return self

    @property
    def parts(self) -> Mapping[str, LinkSpeed]:
        """Every emulated link by its path below ``link``; the one for all has the path ``""``."""
        parts = {"": LinkSpeed.model_validate(self.model_dump(include=set(LinkSpeed.model_fields)))}
        parts |= {"within": self.within, **{f"axes.{axis}": speed for axis, speed in self.axes.items()}}
        return {path: speed for path, speed in parts.items() if speed.is_emulated}

    @property
    def label(self) -> str:
        """``ethernet-10g``, ``ethernet-1g between nodes of 2, nvlink within``, ``tensor: wan``; ``none``."""
        names: list[str] = []
        for path, speed in self.parts.items():
            between = f" between nodes of {self.workers_per_node}" if self.workers_per_node else ""
            if path == "within":
                names.append(f"{speed.label} within" + ("" if names else f" nodes of {self.workers_per_node}"))
            else:
                names.append(f"{path.removeprefix('axes.')}: {speed.label}" if path else speed.label + between)
        return ", ".join(names) or "none"


def _engineering(value: float, units: tuple[str, ...]) -> str:
    """Formats a value in the first of these units, each a thousandth of the previous one, in which it is at least 1."""
    for unit in units[:-1]:
        if value >= 1:
            return f"{value:g} {unit}"
        value = float(f"{value * 1e3:.12g}")
    return f"{value:g} {units[-1]}"
