"""Samples of an iterable dataset, read in its order during the run."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from workbench.errors import SpecError
from workbench.sources.failure import failure_text
from workbench.sources.source import Source

if TYPE_CHECKING:
    from workbench.data.base import Array


class Stream:
    """Samples by their position in the endless sequence of epochs; the next epoch begins where the iteration ends.

    Every worker reads all samples, so that a global batch has the same samples in every split, and keeps those of one global
    batch. Random numbers that the iteration draws are its own: what else the worker draws does not change them.

    Args:
        begin: Returns the iterator of the next epoch.
        collate: Makes a batch of a list of samples.
    """

    def __init__(self, begin: Callable[[], Iterator[Any]], collate: Callable[[list[Any]], Any], source: Source) -> None:
        self.begin, self.collate, self.source = begin, collate, source
        self._samples: deque[Any] = deque()
        self._first = 0
        """Position of the first of these samples."""
        self._iterator: Iterator[Any] | None = None
        self._random_state = _random_state()

    def advance(self, first: int, count: int) -> Array:
        """Reads up to these positions and forgets what lies before them. Returns the positions."""
        assert first >= self._first, f"a stream is read forwards, but position {first} comes after {self._first}"
        if self._end < first + count:
            with self._reading():
                while self._end < first + count:
                    self._samples.append(self._next())
                    self._forget(first)
        self._forget(first)
        return np.arange(first, first + count)

    def chosen(self, positions: Array) -> Any:
        """Returns the collated samples at positions up to which it has been read."""
        return self.collate([self._samples[int(position) - self._first] for position in positions])

    def beginning(self, limit: int) -> tuple[list[Any], bool]:
        """Returns the first samples of an epoch, at most ``limit``, and whether these are all."""
        with self._reading():
            samples = list(islice(self.begin(), limit + 1))
        return samples[:limit], len(samples) <= limit

    @property
    def _end(self) -> int:
        return self._first + len(self._samples)

    def _forget(self, first: int) -> None:
        while self._samples and self._first < first:
            self._samples.popleft()
            self._first += 1

    def _next(self) -> Any:
        for iterator in (self._iterator, None):
            self._iterator = self.begin() if iterator is None else iterator
            for sample in self._iterator:
                return sample
        raise SpecError(self.source.field, f"{self.source.label} has no samples")

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Reads with random numbers of its own, and names the user's file and line if that fails."""
        outside = _random_state()
        _set_random_state(self._random_state)
        try:
            with self.source.imports():
                yield
        except SpecError:
            raise
        except Exception as error:
            text = failure_text(error, f"reading samples of {self.source.label}", self.source.folder, self.source.path)
            raise SpecError(self.source.field, text) from error
        finally:
            self._random_state = _random_state()
            _set_random_state(outside)


def _random_state() -> tuple[Any, Any, Any]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def _set_random_state(state: tuple[Any, Any, Any]) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.set_rng_state(state[2])
