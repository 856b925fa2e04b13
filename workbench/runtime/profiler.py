"""torch.profiler's own trace of a step, on request: on a step of its own, for it makes a step up to half as long again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile


@contextmanager
def torch_profile(path: Path, device: torch.device) -> Iterator[None]:
    """Profiles what runs inside, shapes included, and writes torch's Chrome trace of it to ``path`` (``.json.gz``)."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities, record_shapes=True) as profiler:
        yield
    path.parent.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(path))
