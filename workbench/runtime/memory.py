"""Memory by category on memory steps: torch's MemTracker, mended for pipelines, with a row at each module's edge."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn
from torch.distributed._tools.mem_tracker import MemTracker, _MemRefType
from torch.distributed._tools.mod_tracker import ModTracker

CATEGORIES = {
    _MemRefType.PARAM: "parameters",
    _MemRefType.GRAD: "gradients",
    _MemRefType.OPT: "optimizer_state",
    _MemRefType.ACT: "activations",
    _MemRefType.BUFFER: "buffers",
    _MemRefType.TEMP: "other",
    _MemRefType.OTH: "other",
}


class StageModTracker(ModTracker):
    """torch's hooks on a stage's received input fail when autograd computes the gradients of inputs and of weights apart
    (zero-bubble schedules, torch 2.13): a module whose input is a leaf is left at the end of the backward pass instead."""

    def _fw_pre_hook(self, mod: nn.Module, input: Any) -> None:
        inner = tuple(x for x in input if isinstance(x, torch.Tensor) and not x.is_leaf)
        super()._fw_pre_hook(mod, inner)


class MemoryTracker(MemTracker):
    """Bytes of every tensor alive, by category, at the edges of each module's forward and backward.

    torch's own hooks keep statistics per module and refuse a module's second call outside another's (each microbatch of
    a pipeline, torch 2.13); these keep rows over time instead.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._mod_tracker = StageModTracker()
        self.device = device
        self.rows: list[dict[str, Any]] = []
        self._known: set[int] = set()

    def note(self, event: str, snapshot: dict[Any, Any] | None = None) -> None:
        """Records what is alive now, or was in ``snapshot``."""
        alive = (self.get_tracker_snapshot() if snapshot is None else snapshot).get(self.device, {})
        totals: dict[str, int] = {}
        for kind, category in CATEGORIES.items():
            totals[category] = totals.get(category, 0) + alive.get(kind, 0)
        now = time.perf_counter()
        self.rows += [{"time": now, "event": event, "category": c, "bytes": b} for c, b in totals.items()]

    def peak_bytes(self) -> int:
        """Most bytes alive at once; also noted as the event ``peak``."""
        snapshot = self.get_tracker_snapshot("peak")
        self.note("peak", snapshot)
        return sum(row["bytes"] for row in self.rows if row["event"] == "peak")

    def _name(self, module: nn.Module) -> str:
        return str(self._mod_tracker.get_known_fqn(module) or type(module).__name__)

    def _pre_fw_hook(self, module: nn.Module, inputs: Any) -> None:
        if id(module) not in self._known:
            self._known.add(id(module))
            self._track_module_params_and_buffers(module, install_grad_hooks=True)
        self.note(f"before forward of {self._name(module)}")

    def _post_fw_hook(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        self.note(f"after forward of {self._name(module)}")

    def _pre_bw_hook(self, module: nn.Module, args: Any) -> None:
        if module is not None:
            self.note(f"before backward of {self._name(module)}")

    def _post_bw_hook(self, module: nn.Module, args: Any) -> None:
        if module is not None:
            self.note(f"after backward of {self._name(module)}")
