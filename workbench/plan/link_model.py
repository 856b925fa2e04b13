"""Model of emulated links: the links that each communication operation uses, and its time on them.

With latency α and bandwidth B of a link, an operation of n workers with payload S takes m·α + p·S/B; ``plan/collective_costs.py``
has the number of messages m and of passes p.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from workbench.errors import SpecError
from workbench.messages import unknown_name
from workbench.plan.collective_costs import num_link_passes, num_messages
from workbench.plan.mesh import WORLD, Mesh

if TYPE_CHECKING:
    from workbench.plan.plan import Plan
    from workbench.spec.link import Link


@dataclass(frozen=True)
class Route:
    """The links between the workers of a group as one link, as slow as the slowest of them."""

    names: tuple[str, ...]
    """Paths below ``link`` in the spec. Operations that share a name and a place share the link and run one after the other."""

    latency_s: float
    bandwidth_bytes_per_s: float

    @property
    def is_emulated(self) -> bool:
        """Whether any of its links is emulated."""
        return bool(self.names)

    def transmission_s(self, operation: str, n: int, payload_bytes: int) -> float:
        """Returns the time that the bytes occupy the link, in seconds, without latency."""
        return num_link_passes(operation, n) * payload_bytes / self.bandwidth_bytes_per_s

    def duration_s(self, operation: str, n: int, payload_bytes: int) -> float:
        """Returns the duration of an operation in seconds, from the entry of its last participant.

        Args:
            operation: name of the operation, as in the table ``communication``.
            n: number of workers.
            payload_bytes: bytes of the full tensor; of an all-to-all, the input of one rank.
        """
        return num_messages(operation, n) * self.latency_s + self.transmission_s(operation, n, payload_bytes)


def route(link: Link, mesh: Mesh, axis: str, ranks: Sequence[int]) -> Route:
    """Returns the links of these ranks along an axis or several axes (``data+context``, ``world``)."""
    axes = mesh.axes if axis == WORLD else axis.split("+")
    names = {f"axes.{one}" if one in link.axes else _default_link(link, ranks) for one in axes}
    parts = {name: speed.numbers for name, speed in link.parts.items() if name in names}
    latencies, bandwidths = zip(*parts.values(), strict=True) if parts else ((), ())
    return Route(tuple(parts), max((a or 0.0 for a in latencies), default=0.0), min((b or inf for b in bandwidths), default=inf))


def _default_link(link: Link, ranks: Sequence[int]) -> str:
    """Returns the name of the link that is not of an axis: the one within a node if all ranks are in one node."""
    size = link.workers_per_node
    return "within" if size and len({rank // size for rank in ranks}) == 1 else ""


def link_index(link: Link, name: str, rank: int) -> int:
    """Returns the index of the link of this name that a rank uses: the rank itself, or its node."""
    return rank // link.workers_per_node if link.workers_per_node and name == "" else rank


def check_link(plan: Plan) -> None:
    """Rejects emulated links that are incompatible with the split or the device.

    Raises:
        SpecError: an axis is unknown, or the message includes the numbers.
    """
    link, axes = plan.spec.link, list(plan.mesh.axes)
    allowed = [*axes, *(s.name for s in plan.strategies if s.divides_axis)]
    for axis in link.axes:
        if axis not in allowed:
            message = unknown_name("axis", axis, allowed) if axes else "a run on one worker has no mesh axes; remove it"
            raise SpecError(f"link.axes.{axis}", message)
    size, num_workers = link.workers_per_node, plan.num_workers
    if size and num_workers > 1 and num_workers % size:
        raise SpecError(
            "link.workers_per_node",
            f"{num_workers} workers cannot be divided into nodes of {size}; use a divisor of {num_workers}",
        )
    if size and 1 < num_workers <= size and "" in link.parts:
        message = f"all {num_workers} workers are in one node of {size}, so that the link between nodes is unused"
        raise SpecError("link.workers_per_node", f"{message}; use fewer workers per node, or link.within")
    if link.parts and plan.device == "cuda":
        message = "links can only be emulated between CPU workers, since GPUs communicate without the host that adds the delay"
        raise SpecError("link", f'{message}; set launch.device = "cpu" or remove the link')
