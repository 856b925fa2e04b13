"""Tracks all tensors of a worker on memory steps, by category and location, and enforces the memory budget.

torch's MemTracker (2.13) rejects the second microbatch of a pipeline, counts temporaries of the optimizer as its state, and sees
neither DDP's buckets nor what was allocated before it started (receive buffers, gathered parameters). This tracker keeps a log of
allocations and assigns their final categories at the end of the step, when it is known which became gradients.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from workbench.runtime.build import local
from workbench.runtime.memory.allocation_log import Allocation, AllocationLog, Change
from workbench.runtime.memory.allocator import AllocatorPeak
from workbench.runtime.memory.budget import MemoryBudgetExceeded
from workbench.runtime.memory.idle_threads import wait_for_idle_threads
from workbench.runtime.tracing.recorder import Recorder
from workbench.strategies.worker_model import WorkerModel
from workbench.torch_private.autograd import backward_id
from workbench.torch_private.dispatch import FakeTensor, TorchDispatchMode, tree_leaves
from workbench.torch_private.distributed import AsyncCollectiveTensor
from workbench.torch_private.fsdp import CHUNK_CAT


class MemoryTracker(TorchDispatchMode):
    """Context that tracks the memory of one step of a worker.

    Tensors that exist at the beginning are enumerated by Python's garbage collector. From then on every operation reports its
    allocations, process groups report their receive buffers, and a weak reference to each storage reports its release. Categories
    that are not obvious:

    - *activations*: allocated in forward passes, including recomputation, or received along the tensor axis.
    - *communication*: received from other workers along other axes, or buffers of gathers and scatters.
    - *workspace*: allocated and freed inside a kernel; known from the allocator at the end of the step.
    - *other*: temporaries of backward passes and the optimizer, such as gradients of activations, and the batch.
    """

    def __init__(
        self, worker: WorkerModel, optimizer: torch.optim.Optimizer | None, recorder: Recorder, budget: int | None = None
    ) -> None:
        super().__init__()
        self.worker, self.optimizer, self.recorder, self.budget = worker, optimizer, recorder, budget
        self.log = AllocationLog()
        self._alive: dict[int, Allocation] = {}
        self._modules: list[str] = []
        self._spans: list[tuple[str, str]] = []
        self._module_of_backward = ""
        self._workspaces: list[tuple[Change, Change]] = []
        """Workspace of each operation, in order."""
        self._names = {module: name for name, module in worker.blocks.named_modules()}

    def __enter__(self) -> MemoryTracker:
        self._begin()
        self._handles = [
            register_module_forward_pre_hook(self._enter_module),
            register_module_forward_hook(self._leave_module, always_call=True),
        ]
        self._resize = torch.UntypedStorage.resize_
        torch.UntypedStorage.resize_ = self._resizing()  # type: ignore[method-assign]
        self.recorder.watcher = self
        self._bytes_before = self.log.total
        self._allocator = AllocatorPeak(self.worker.device)
        self._allocator.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._settle_all()
        self._mark("end of step", "end of step")
        self._alive.clear()  # releases from here on do not belong to this step
        self._allocator.__exit__(*error)
        self.log.fill((self._workspaces[index], size) for index, size in self._allocator.workspaces.items())
        self.recorder.watcher = None
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]
        for handle in self._handles:
            handle.remove()
        if error[0] is None:
            self._check_budget()

    def _check_budget(self) -> None:
        if self.budget is not None and self.log.most > self.budget:
            raise MemoryBudgetExceeded(self.budget, self.log.peak())

    def allocator_figures(self) -> dict[str, Any]:
        """Returns the figures of the allocator, independent of the tracker: ``allocator_peak_bytes`` and, on GPU, more."""
        figures = self._allocator.figures
        peak = figures.get("allocated_peak_bytes", self._bytes_before + self._allocator.growth_bytes)
        return {"allocator_peak_bytes": peak, **figures}

    def _begin(self) -> None:
        """Records all existing tensors. DDP's buckets belong to C++, but the gradients of the previous step are views of them."""
        for name, parameter in self.worker.named_parameters():
            if parameter.grad is not None:
                self._settle(parameter.grad, "gradients", name)
        if self.optimizer is not None:
            self.optimizer.zero_grad()
        self._settle_all()
        gc.collect()
        for candidate in gc.get_objects():
            if issubclass(type(candidate), Tensor):
                self._allocation(candidate, "other")
        self._mark("begin of step", "the beginning of the step")

    def _settle_all(self) -> None:
        """Assigns the final category to every tensor whose role is known."""
        for name, parameter in self.worker.named_parameters():
            self._settle(parameter, "parameters", name)
        for name, parameter in self.worker.named_parameters():
            if parameter.grad is not None:
                self._settle(parameter.grad, "gradients", name)
        for name, buffer in self.worker.blocks.named_buffers():
            self._settle(buffer, "buffers", name)
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.worker.named_parameters()}
        updated = getattr(self.optimizer, "optim", self.optimizer)  # ZeRO-1 wraps the optimizer of the local shard
        for key_parameter, state in updated.state.items() if updated is not None else ():
            for key, value in state.items():
                if isinstance(value, Tensor):
                    self._settle(value, "optimizer_state", f"{names.get(key_parameter, '')} {key}".strip())

    def _settle(self, tensor: Tensor, category: str, name: str) -> None:
        allocation = self._allocation(local(tensor), category)
        if allocation is None:
            return
        if not allocation.is_settled:
            allocation.category, allocation.module, allocation.is_settled = category, name, True
        elif allocation.category == category and allocation.module != name:
            allocation.others.add(name)

    def _allocation(self, tensor: Tensor, category: str) -> Allocation | None:
        """Returns the allocation behind a tensor, recording a new one; None for tensors without memory on this device."""
        if _is_wrapper(tensor) or tensor.device.type != self.worker.device.type:
            return None
        return self._allocation_of_storage(tensor.untyped_storage(), category, tensor)

    def _allocation_of_storage(self, storage: torch.UntypedStorage, category: str, tensor: Tensor | None = None) -> Allocation:
        key, num_bytes = id(storage), storage.nbytes()  # one object per storage while its memory exists
        allocation = self._alive.get(key)
        if allocation is None:
            reference = weakref.ref(storage, partial(self._end, key))
            shape, dtype = ((), torch.uint8) if tensor is None else (tuple(tensor.shape), tensor.dtype)
            allocation = Allocation(reference, category, self._module(), shape, str(dtype).removeprefix("torch."))
            self._alive[key] = allocation
        if num_bytes != allocation.num_bytes:
            self.log.note(allocation, num_bytes)
        return allocation

    def _end(self, key: int, reference: Any) -> None:
        if allocation := self._alive.pop(key, None):
            self.log.note(allocation, 0)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor | AsyncCollectiveTensor) for kind in types):
            return NotImplemented  # they decompose the operation and dispatch what is actually computed
        with self._allocator.operation(len(self._workspaces)):
            result = function(*args, **kwargs or {})
        if function is CHUNK_CAT:
            for gradient in args[0]:  # unsharded, held until they are scattered
                self._mark_received(gradient)
        category = "activations" if self._is_forward() else "other"
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._allocation(tensor, category)
        self._workspaces.append(self.log.note_workspace(self._module()))
        if self.budget is not None and self.log.most > self.budget:
            self._settle_all()
            self._check_budget()
        return result

    def _is_forward(self) -> bool:
        """Whether the current operation belongs to a forward pass. Backward passes run without gradients, except in
        recomputation."""
        if self._is_in_backward():
            return torch.is_grad_enabled()
        return not self._spans or self._spans[-1][0] == "forward"

    def on_communication(self, operation: str, axis: str | None, args: tuple[Any, ...]) -> None:
        """Assigns the tensors that an operation receives into. Process groups call it with the arguments of the operation,
        outputs first."""
        if axis == "tensor" or operation == "send":
            return
        for tensor in tree_leaves(args[:2] if operation == "reduce_scatter" else args[:1]):
            if isinstance(tensor, Tensor):
                self._mark_received(tensor)

    def _mark_received(self, tensor: Tensor) -> None:
        if allocation := self._allocation(tensor, "communication"):
            allocation.set_category("communication")

    def _resizing(self) -> Any:
        """Returns a ``resize_`` that reports to the tracker. FSDP frees and allocates gathered parameters by resizing their
        storages."""
        resize = self._resize

        def resize_(storage: torch.UntypedStorage, size: int) -> Any:
            result = resize(storage, size)
            self._allocation_of_storage(storage, "communication").set_category("communication")
            return result

        return resize_

    @contextmanager
    def span(self, kind: str, stage: int | None, microbatch: int | None, name: str | None) -> Iterator[None]:
        """Logs the beginning and end of a span. The recorder calls it around each span of the worker."""
        piece = f", microbatch {microbatch}" if microbatch is not None else ""
        if kind.startswith("backward") and self.worker.rank_view.mesh.num_workers > 1:
            # gloo's threads release their tensors after the operation is complete. Releasing a storage that Python has seen
            # requires the GIL, which the worker rarely releases.
            wait_for_idle_threads()
        self._spans.append((kind, piece if self.worker.num_microbatches > 1 else ""))
        self._mark(f"{name or kind} begins{self._spans[-1][1]}")
        try:
            yield
        finally:
            _, piece = self._spans.pop()
            self._mark(f"{name or kind} ends{piece}")

    def _enter_module(self, module: nn.Module, inputs: Any) -> None:
        self._modules.append(self._names.get(module, ""))
        if name := self._names.get(module):
            self._mark(f"forward of {name} begins{self._piece()}")

    def _leave_module(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        self._modules.pop()
        if not (name := self._names.get(module)):
            return
        self._mark(f"forward of {name} ends{self._piece()}")
        for output in tree_leaves(outputs):
            if isinstance(output, Tensor) and output.grad_fn is not None and not self._is_in_backward():
                output.register_hook(partial(self._enter_backward, name))

    def _is_in_backward(self) -> bool:
        return backward_id() is not None

    def _enter_backward(self, name: str, gradient: Tensor) -> None:
        self._module_of_backward = name
        self._mark(f"backward of {name} begins{self._piece()}")

    def _piece(self) -> str:
        return self._spans[-1][1] if self._spans else ""

    def _module(self) -> str:
        if self._modules:
            return self._modules[-1]
        return self._module_of_backward if self._is_in_backward() else ""

    def _location(self) -> str:
        kind, piece = self._spans[-1] if self._spans else ("step", "")
        module = self._module()
        if self._is_in_backward():
            kind = "recomputed forward" if self._modules else "backward"
        return kind + (f" of {module}" if module else "") + piece

    def _mark(self, event: str, where: str = "") -> None:
        self.log.mark(event, where or self._location())


def _is_wrapper(tensor: Tensor) -> bool:
    """Whether a tensor has no memory of its own."""
    return isinstance(tensor, DTensor | AsyncCollectiveTensor | FakeTensor) or tensor.is_meta or tensor.layout != torch.strided
