"""A model that fails deliberately, for tests of how a run ends: load with ``WORKBENCH_PLUGINS=workbench.testing.faults``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Literal

import torch
import torch.distributed as dist
from pydantic import NonNegativeInt
from torch import Tensor, nn

from workbench.models.base import model
from workbench.models.mlp import MLP, MLPOptions


class FaultyOptions(MLPOptions):
    name: Literal["faulty"] = "faulty"  # type: ignore[assignment]

    fault: Literal["raise", "kill", "hang", "none"] = "raise"
    """Kind of failure."""

    starts_processes: bool = False
    """Whether the worker also starts two processes that do not end, one of them in a session of its own."""

    rank: NonNegativeInt = 1
    """Rank of the worker that fails."""

    call: NonNegativeInt = 5
    """Number of the call of the input block that fails."""


@model("faulty")
class Faulty(MLP):
    """An MLP whose input block raises, is killed, hangs or leaves processes on one worker."""

    Options = FaultyOptions

    def build_block(self, block: str) -> nn.Module:
        built = super().build_block(block)
        if block == "input":
            assert isinstance(self.options, FaultyOptions)
            built.register_forward_pre_hook(Fault(self.options))
        return built


class Fault:
    """Counts calls, then fails."""

    def __init__(self, options: FaultyOptions) -> None:
        self.options, self.calls = options, 0

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.calls += 1
        if dist.get_rank() != self.options.rank or self.calls != self.options.call or torch.is_inference_mode_enabled():
            return
        if self.options.starts_processes:
            for own_session in (False, True):
                # Its last argument tells the process from those of other runs.
                command = [sys.executable, "-c", "import time; time.sleep(3600)", os.environ["WORKBENCH_HOME"]]
                subprocess.Popen(command, start_new_session=own_session)
        if self.options.fault == "none":
            return
        if self.options.fault == "raise":
            raise ValueError("wrong on purpose")
        if self.options.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(3600)
