"""Which rows of an image each worker has, needs and sends, for a convolution over rows shared out between workers."""

from __future__ import annotations

from dataclasses import dataclass


def shares(num_rows: int, size: int) -> list[range]:
    """Consecutive rows of each worker, as even as can be; shares of the same height are the same for every layer."""
    return [range(num_rows * i // size, num_rows * (i + 1) // size) for i in range(size)]


def overlap(a: range, b: range) -> range:
    """The rows in both; empty where there are none."""
    start = max(a.start, b.start)
    return range(start, max(start, min(a.stop, b.stop)))


@dataclass(frozen=True)
class RowSplit:
    """Input and output rows of one convolution (dilation 1), each shared out evenly between ``size`` workers."""

    height: int
    """Rows of the whole input."""

    kernel: int
    stride: int
    padding: int
    size: int

    @property
    def inputs(self) -> list[range]:
        """Input rows that each worker has."""
        return shares(self.height, self.size)

    @property
    def outputs(self) -> list[range]:
        """Output rows that each worker computes."""
        return shares((self.height + 2 * self.padding - self.kernel) // self.stride + 1, self.size)

    def window(self, worker: int) -> range:
        """Input rows that a worker's output rows are made from; those below 0 or from ``height`` on are padding."""
        rows = self.outputs[worker]
        first = rows.start * self.stride - self.padding
        return range(first, first + (len(rows) - 1) * self.stride + self.kernel)

    def halo(self, owner: int, worker: int) -> range:
        """Input rows that ``worker`` needs and ``owner`` has. Of neighbours as a rule; of others too where the kernel
        reaches further than a share."""
        return overlap(self.inputs[owner], self.window(worker))

    def halos(self) -> dict[tuple[int, int], range]:
        """All rows that move: (owner, worker) → rows."""
        pairs = [(owner, worker) for owner in range(self.size) for worker in range(self.size) if owner != worker]
        return {pair: self.halo(*pair) for pair in pairs if self.halo(*pair)}
