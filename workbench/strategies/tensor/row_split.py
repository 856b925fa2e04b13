"""Determines the rows of an image that each worker has, needs and sends for a convolution over rows split between workers."""

from __future__ import annotations

from dataclasses import dataclass


def shares(num_rows: int, size: int) -> list[range]:
    """Returns the consecutive rows of each worker, as even as possible; images of equal height are split equally in all
    layers."""
    return [range(num_rows * i // size, num_rows * (i + 1) // size) for i in range(size)]


def overlap(a: range, b: range) -> range:
    """Returns the rows in both ranges; empty if there are none."""
    start = max(a.start, b.start)
    return range(start, max(start, min(a.stop, b.stop)))


@dataclass(frozen=True)
class RowSplit:
    """Input and output rows of a convolution (dilation 1), each split evenly between ``size`` workers."""

    height: int
    """Number of rows of the full input."""

    kernel: int
    stride: int
    padding: int
    size: int

    @property
    def inputs(self) -> list[range]:
        """Returns the input rows of each worker."""
        return shares(self.height, self.size)

    @property
    def outputs(self) -> list[range]:
        """Returns the output rows that each worker computes."""
        return shares((self.height + 2 * self.padding - self.kernel) // self.stride + 1, self.size)

    def window(self, worker: int) -> range:
        """Returns the input rows of a worker's output rows; those below 0 or from ``height`` on are padding."""
        rows = self.outputs[worker]
        first = rows.start * self.stride - self.padding
        return range(first, first + (len(rows) - 1) * self.stride + self.kernel)

    def halo(self, owner: int, worker: int) -> range:
        """Returns the input rows that ``worker`` needs from ``owner``; usually a neighbour, or others if the kernel is larger
        than the rows of a worker."""
        return overlap(self.inputs[owner], self.window(worker))

    def halos(self) -> dict[tuple[int, int], range]:
        """Returns all halos: (owner, worker) → rows."""
        pairs = [(owner, worker) for owner in range(self.size) for worker in range(self.size) if owner != worker]
        return {pair: self.halo(*pair) for pair in pairs if self.halo(*pair)}
