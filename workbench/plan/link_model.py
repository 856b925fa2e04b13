"""What an emulated link carries, and how long: the costs of communication algorithms, and which links an operation uses.

Latency α and bandwidth B of a link, n workers, payload S (the full tensor's bytes; all-to-all: one rank's input):
all-reduce on a ring 2(n−1)·(α + S/(nB)) (Patarasuk and Yuan 2009); all-gather and reduce-scatter on a ring and all-to-all by
pairwise exchange (n−1)·(α + S/(nB)); broadcast on a binomial tree ⌈log₂ n⌉·(α + S/B) (Thakur, Rabenseifner and Gropp 2005,
sections 3 and 4); barrier by dissemination ⌈log₂ n⌉·α (Hensgen, Finkel and Manber 1988); a send α + S/B (Hockney 1994).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from workbench.errors import SpecError
from workbench.messages import unknown_name
from workbench.plan.mesh import WORLD, Mesh

if TYPE_CHECKING:
    from workbench.plan.plan import Plan
    from workbench.spec.link import Link


def num_messages(operation: str, n: int) -> int:
    """Messages of an operation of ``n`` workers that follow one another, each with the link's latency."""
    tree = (n - 1).bit_length()
    ring = {"all_reduce": 2 * (n - 1), "all_gather": n - 1, "reduce_scatter": n - 1, "all_to_all": n - 1}
    return {**ring, "broadcast": tree, "barrier": tree, "send": 1, "recv": 1}[operation]


def passes(operation: str, n: int) -> float:
    """How often an operation's payload passes one worker's link in one direction."""
    ring = {"all_reduce": 2 * (n - 1) / n, **dict.fromkeys(("all_gather", "reduce_scatter", "all_to_all"), (n - 1) / n)}
    return {**ring, "broadcast": (n - 1).bit_length(), "barrier": 0, "send": 1, "recv": 1}[operation]


OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "barrier", "send", "recv")
"""Those that have a formula; others are not emulated."""


@dataclass(frozen=True)
class Route:
    """The links that the operations of one group of workers pass, as one: as slow as the slowest."""

    names: tuple[str, ...]
    """Paths below ``link`` in the spec; operations that share a name and a place take turns."""

    latency_s: float
    bandwidth_bytes_per_s: float

    @property
    def is_emulated(self) -> bool:
        """Whether it delays anything."""
        return bool(self.names)

    def bytes_s(self, operation: str, n: int, payload_bytes: int) -> float:
        """Seconds that the bytes alone keep the link busy."""
        return passes(operation, n) * payload_bytes / self.bandwidth_bytes_per_s

    def duration_s(self, operation: str, n: int, payload_bytes: int) -> float:
        """Seconds of the whole operation of ``n`` workers, from the moment when the last has entered."""
        return num_messages(operation, n) * self.latency_s + self.bytes_s(operation, n, payload_bytes)


def route(link: Link, mesh: Mesh, axis: str, ranks: Sequence[int]) -> Route:
    """What these ranks communicate over along an axis, or along several (``data+context``, ``world``)."""
    axes = mesh.axes if axis == WORLD else axis.split("+")
    names = {f"axes.{one}" if one in link.axes else _of_all(link, ranks) for one in axes}
    parts = {name: speed.numbers for name, speed in link.parts.items() if name in names}
    latencies, bandwidths = zip(*parts.values(), strict=True) if parts else ((), ())
    return Route(tuple(parts), max((a or 0.0 for a in latencies), default=0.0), min((b or inf for b in bandwidths), default=inf))


def _of_all(link: Link, ranks: Sequence[int]) -> str:
    """The link for all axes: within a node where all these ranks are in one."""
    size = link.workers_per_node
    return "within" if size and len({rank // size for rank in ranks}) == 1 else ""


def place(link: Link, name: str, rank: int) -> int:
    """Which link of this name a rank uses: its own, or its node's."""
    return rank // link.workers_per_node if link.workers_per_node and name == "" else rank


def check_link(plan: Plan) -> None:
    """Refuses an emulated link that this split or machine cannot have.

    Raises:
        SpecError: with the axes, or the arithmetic.
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
