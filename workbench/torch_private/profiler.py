"""``torch.profiler``."""

from __future__ import annotations

from typing import Any

from torch._C._autograd import _disable_profiler, _enable_profiler, _prepare_profiler
from torch._C._profiler import ProfilerActivity, ProfilerConfig, ProfilerState, RecordScope, _ExperimentalConfig
from torch.autograd.profiler import profile


def start_profiling_user_scopes() -> None:
    """Starts to record spans that libraries such as gloo open themselves, with shapes, but no operation of torch.

    Private: torch._C._autograd._prepare_profiler, torch._C._autograd._enable_profiler, torch._C._profiler
    Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/autograd/profiler.py
    Checked: torch 2.11, 2.12, 2.13
    Reason: the public profiler records every operation, which makes a step up to half as long again.
    """
    flags = True, False, False, False, False  # shapes; no memory, stacks, FLOPs, modules
    config = ProfilerConfig(ProfilerState.KINETO, *flags, _ExperimentalConfig(), "")
    _prepare_profiler(config, {ProfilerActivity.CPU})
    _enable_profiler(config, {ProfilerActivity.CPU}, {RecordScope.USER_SCOPE})  # type: ignore[call-arg]  # stub lacks scopes


def stop_profiling() -> list[Any]:
    """Stops; returns the spans: ``name()``, ``shapes()``, ``start_ns()`` and ``end_ns()``.

    Private: torch._C._autograd._disable_profiler
    Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/autograd/profiler.py
    Checked: torch 2.11, 2.12, 2.13
    Reason: as for ``start_profiling_user_scopes``.
    """
    return _disable_profiler().events()


def raw_events(ended: profile) -> list[Any]:
    """Returns the events of a profile that has ended as they were recorded; those called ``[memory]`` have ``nbytes()``.

    Private: torch.autograd.profiler.profile.kineto_results
    Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/autograd/profiler.py
    Checked: torch 2.11, 2.12, 2.13
    Reason: the public events assign allocations to operations and lose those between them.
    """
    results: Any = ended.kineto_results
    events: list[Any] = results.events()
    return events
