"""The contract of a slicing: how the layers of one group are cut between the workers of the tensor axis."""

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
    """One group of layers cut along ``dim`` between ``size`` workers.

    With ``sequence_parallel`` every worker has a part of the sequence, (batch, sequence / size, features), before and
    after linear layers that are cut along the first of their dims; other layers do not know it. With ``parallel_loss`` a
    head cut by vocabulary hands on its slice of the scores.
    """

    dims: ClassVar[tuple[str, ...]]
    """What users may choose; the first is the default. ``none``, every worker computes the whole, is the caller's."""

    def __init__(self, group: G, dim: str, size: int, *, sequence_parallel: bool = False, parallel_loss: bool = False) -> None:
        assert dim in self.dims
        self.group, self.dim, self.size = group, dim, size
        self.sequence_parallel, self.parallel_loss = sequence_parallel, parallel_loss

    @property
    def keeps_block_shapes(self) -> bool:
        """Whether every worker hands whole activations on to the next block; else stages on other workers would get
        parts of them."""
        return True

    @property
    def communicates_output(self) -> bool:
        """Whether its last communication in forward is that of its output, which backward does not need."""
        return True

    @abstractmethod
    def check(self) -> None:
        """Raises:
        SplitError: the layers do not divide between the workers; with the arithmetic.
        """

    @abstractmethod
    def cut(self) -> dict[str, int]:
        """Parameter of the unsplit model → dim along which it is cut into equal parts; those not named stay whole. A
        bias that a layer may do without is named all the same."""

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
        """Cuts the layers in ``blocks``, which hold all of the group: sliced parameters become DTensors under their
        original names, and the layers' forward passes communicate over ``mesh`` (one-dimensional)."""

    def _must_divide(self, width: int, what: str) -> None:
        """``width`` is what is shared out, ``what`` it is called: ``vocabulary entries of head.projection``."""
        if width % self.size:
            whole = f'set split.tensor.cut.{self.group.kind} = "none" to replicate these layers'
            advice = f"use a divisor of {width}, or {whole}" if width > 1 else whole
            raise SplitError(
                "split.tensor.size",
                f"{width} {what} are not divisible by {self.size} workers (remainder {width % self.size}); {advice}",
            )
