"""A model with deliberate, known delays, for tests of measurements: load with ``WORKBENCH_PLUGINS=workbench.testing.delays``."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any, Literal

import torch.distributed as dist
from pydantic import NonNegativeFloat, NonNegativeInt
from torch import Tensor, nn

from workbench.models.base import model
from workbench.models.mlp import MLP, MLPOptions
from workbench.runtime.tracing.recorded_work import RecordedWork


class DelayedOptions(MLPOptions):
    name: Literal["delayed"] = "delayed"  # type: ignore[assignment]

    forward_s: NonNegativeFloat = 0.0
    """Seconds for which a block sleeps before each of its forward passes."""

    block: str = ""
    """Name of the block; by default all blocks."""

    rank: NonNegativeInt | None = None
    """Rank of the worker; by default all workers."""

    wait_s: NonNegativeFloat = 0.0
    """Seconds by which every communication operation takes longer, for all workers that wait for it."""


@model("delayed")
class Delayed(MLP):
    """An MLP whose blocks sleep before they compute, or whose communication is delayed."""

    Options = DelayedOptions

    def build_block(self, block: str) -> nn.Module:
        built, options = super().build_block(block), self.options
        assert isinstance(options, DelayedOptions)
        RecordedWork.__init__ = _slowed(options.wait_s)  # type: ignore[method-assign]
        if options.forward_s and options.block in ("", block):
            built.register_forward_pre_hook(Delay(options))
        return built


class Delay:
    """Sleeps before each call, on the selected worker."""

    def __init__(self, options: DelayedOptions) -> None:
        self.options = options

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if self.options.rank in (None, dist.get_rank()):
            time.sleep(self.options.forward_s)


class SlowWork:
    """An operation that takes longer."""

    def __init__(self, inner: Any, seconds: float) -> None:
        self.inner, self.seconds = inner, seconds

    def wait(self, *timeout: timedelta) -> None:
        self.inner.wait(*timeout)
        time.sleep(self.seconds)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


_plain = RecordedWork.__init__


def _slowed(seconds: float) -> Any:
    def init(self: RecordedWork, inner: Any, *args: Any, **kwargs: Any) -> None:
        _plain(self, SlowWork(inner, seconds) if seconds else inner, *args, **kwargs)

    return init
