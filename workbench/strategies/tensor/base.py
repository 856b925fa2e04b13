"""Defines the contract of a slicing: how the layers of a group are cut between the workers of the tensor axis."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from workbench.errors import SplitError
from workbench.plan.layer_groups import LayerGroup

if TYPE_CHECKING:
    from torch import nn
    from torch.distributed.device_mesh import DeviceMesh

    from workbench.plan.communication import ExpectedCommunication

G = TypeVar("G", bound=LayerGroup)


class Slicing(ABC, Generic[G]):
    """A group of layers cut along ``dim`` between ``size`` workers.

    With ``sequence_parallel`` every worker has a part of the sequence, (batch, sequence / size, features), before and after
    linear layers that are cut along the first of their dims; other layers ignore it. With ``parallel_loss`` a head cut by
    vocabulary returns its slice of the scores.
    """

    dims: ClassVar[tuple[str, ...]]
    """Dims that a user can choose, the default first. ``none``, which replicates the layers, is handled by the caller."""

    def __init__(self, group: G, dim: str, size: int, *, sequence_parallel: bool = False, parallel_loss: bool = False) -> None:
        assert dim in self.dims
        self.group, self.dim, self.size = group, dim, size
        self.sequence_parallel, self.parallel_loss = sequence_parallel, parallel_loss

    @property
    def keeps_block_shapes(self) -> bool:
        """Whether every worker passes full activations to the next block; otherwise stages on other workers would receive
        slices."""
        return True

    @property
    def communicates_output(self) -> bool:
        """Whether its last communication in forward is that of its output, which backward does not need."""
        return True

    @abstractmethod
    def check(self) -> None:
        """Checks that the layers are divisible.

        Raises:
            SplitError: they are not; the message includes the numbers.
        """

    @abstractmethod
    def cut(self) -> dict[str, int]:
        """Returns parameter of the unsplit model → dim along which it is cut into equal parts; other parameters are replicated.
        Optional biases are always included."""

    @property
    def stored_order(self) -> dict[str, tuple[int, tuple[range, ...]]]:
        """As of ``WorkerModel``."""
        return {}

    @abstractmethod
    def expected(self, num_samples: int, element_bytes: int, axis: str) -> list[ExpectedCommunication]:
        """Returns the communication of one forward and backward pass through one group of workers: each collective once, and each
        send of each worker once.

        Args:
            num_samples: samples of the pass.
            element_bytes: bytes of one element of the activations.
            axis: mesh axis of the group.
        """

    @abstractmethod
    def apply(self, blocks: nn.Module, mesh: DeviceMesh) -> None:
        """Cuts the layers in ``blocks``, which contain all of the group. Sliced parameters become DTensors under their original
        names, and forward passes communicate over ``mesh`` (one-dimensional)."""

    def _must_divide(self, width: int, units: str) -> None:
        """Checks that ``width`` units, such as ``vocabulary entries of head.projection``, are divisible."""
        if width % self.size:
            whole = f'set split.tensor.cut.{self.group.kind} = "none" to replicate these layers'
            advice = f"use a divisor of {width}, or {whole}" if width > 1 else whole
            raise SplitError(
                "split.tensor.size",
                f"{width} {units} are not divisible by {self.size} workers (remainder {width % self.size}); {advice}",
            )
