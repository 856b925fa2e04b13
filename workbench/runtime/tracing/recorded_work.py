"""The ``Work`` objects that recorded process groups return."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from workbench.runtime.tracing.recorder import Operation, Recorder


class DoneWork:
    """The work of a synchronous collective of NCCL, which returns none because it runs on the current stream.

    C++ callers dereference the work of a Python process group without a check (torch 2.13, ``PyWorkHolder``), so it must not be
    None.

    Args:
        outputs: the tensors that the operation wrote.
    """

    def __init__(self, outputs: list[Tensor]) -> None:
        self._outputs = outputs

    def wait(self, *timeout: timedelta) -> bool:
        return True

    def synchronize(self) -> None:
        pass  # the current stream is already behind it

    def block_current_stream(self) -> None:
        pass

    def get_future(self) -> Any:
        on_gpu = [tensor.device for tensor in self._outputs[:1] if tensor.is_cuda]
        future: Any = torch.futures.Future(devices=on_gpu)  # type: ignore[arg-type]
        future.set_result(self._outputs)
        return future

    def is_completed(self) -> bool:
        return True

    def is_success(self) -> bool:
        return True

    def exception(self) -> None:
        return None

    def result(self) -> list[Tensor]:
        return self._outputs


class RecordedWork(dist.Work):
    """Delegates to the work of the real process group and records when the worker waited for it.

    Args:
        inner: the work of the real process group.
        ops: on trace steps, the recorded operation or those of a batch of sends and recvs; empty otherwise.
        recorder: counts the waits of the step.
        sent: tensors to keep alive until they have been sent.
    """

    def __init__(self, inner: Any, ops: Sequence[Operation], recorder: Recorder, sent: list[Tensor]) -> None:
        super().__init__()
        self.inner, self.ops, self.recorder = inner, ops, recorder
        self._sent = sent

    def wait(self, timeout: timedelta | None = None) -> bool:
        started = time.perf_counter()
        try:
            self.inner.wait(timeout) if timeout else self.inner.wait()
        except RuntimeError:
            self.recorder.communication_failed = True
            raise
        ended = time.perf_counter()
        self.recorder.wait_s += ended - started
        for op in self.ops:
            if op.wait_started is None:
                op.wait_started, op.ended = started, ended
        return True

    def synchronize(self) -> None:
        self.inner.synchronize()

    def block_current_stream(self) -> None:
        self.inner.block_current_stream()

    def get_future(self) -> Any:
        future = self.inner.get_future()
        if self.recorder.device == "cpu":  # callbacks of NCCL's futures run when the operation is issued, not when it is done
            self.recorder.watch_future(self.ops[0] if self.ops else None, future)
        return future

    def is_completed(self) -> bool:
        return self.inner.is_completed()

    def is_success(self) -> bool:
        return self.inner.is_success()

    def exception(self) -> Any:
        return self.inner.exception()

    def result(self) -> Any:
        return self.inner.result()
