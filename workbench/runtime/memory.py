"""Every tensor alive on memory steps, by category, with what the worker did meanwhile; and the budget that they must fit in.

torch's MemTracker (2.13) refuses a pipeline's second microbatch, counts the optimizer's temporaries as its state, and sees
neither DDP's buckets nor what was allocated before it began (receive buffers, gathered parameters). This one keeps a log of
allocations and says at the end of the step what each was: then it is known what became a gradient.
"""

from __future__ import annotations

import gc
import time
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.tensor import DTensor
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from workbench.runtime.build import local
from workbench.runtime.recorder import Recorder
from workbench.strategies.worker_model import WorkerModel

CATEGORIES = ("parameters", "gradients", "optimizer_state", "activations", "buffers", "communication", "other")
NUM_LARGEST = 20


@dataclass(eq=False)
class Allocation:
    """One storage while it lives."""

    reference: weakref.ref[Any]
    """Of the storage: kept, for its callback notes the end."""
    category: str
    module: str
    """The module that it was made in, or the name of the parameter that it belongs to."""
    shape: tuple[int, ...]
    dtype: str
    num_bytes: int = 0
    is_settled: bool = False
    """Whether its category is what it is for good: a gradient that is sent stays a gradient."""
    num_others: int = 0
    """Of parameters that share it, as gradients do a bucket."""

    def becomes(self, category: str) -> None:
        """Puts it in a category, if it is not known for good what it is."""
        if not self.is_settled:
            self.category = category

    def as_dict(self, num_bytes: int) -> dict[str, Any]:
        """As the table ``peak_tensors`` has it, when it was so large; what is not one tensor has the shape of its elements."""
        item = getattr(torch, self.dtype).itemsize
        shape = self.shape if prod(self.shape) * item == num_bytes else (num_bytes // item,)
        return {
            "category": self.category,
            "module": self.module + (f" and {self.num_others} more" if self.num_others else ""),
            "shape": "×".join(map(str, shape)),
            "dtype": self.dtype,
            "bytes": num_bytes,
        }


@dataclass
class Mark:
    """What happened after so many entries of the log, and what the worker was in from then on."""

    position: int
    time: float
    event: str
    where: str


@dataclass(frozen=True)
class Peak:
    """The most that was alive at once."""

    time: float
    where: str
    by_category: dict[str, int]
    largest: list[dict[str, Any]]
    """The largest tensors: category, module, shape, dtype, bytes."""

    @property
    def num_bytes(self) -> int:
        """In all."""
        return sum(self.by_category.values())

    def figures(self) -> dict[str, Any]:
        """As ``summary.json`` has them of each worker."""
        return {"peak_memory_bytes": self.num_bytes, "peak_memory_event": self.where, "peak_memory_by_category": self.by_category}


class MemoryBudgetExceeded(Exception):  # noqa: N818 - like the end of memory on a device, no mistake of the program
    """More is alive than the worker may have."""

    def __init__(self, budget: int, peak: Peak) -> None:
        over, allowed = peak.num_bytes / 2**20, budget / 2**20
        super().__init__(f"out of memory in {peak.where}: {over:.2f} MiB are alive, measure.memory_budget_bytes is {allowed:.2f} MiB")
        self.budget, self.peak = budget, peak

    @property
    def details(self) -> dict[str, Any]:
        """What ``error.json`` says of it beside the exception."""
        peak = self.peak
        memory = {
            "budget_bytes": self.budget,
            "bytes": peak.num_bytes,
            "event": peak.where,
            "by_category": peak.by_category,
            "largest_tensors": peak.largest,
        }
        return {"memory": memory, "advice": self._advice()}

    def _advice(self) -> str:
        """What takes away most of what there was most of."""
        largest = max(self.peak.by_category, key=lambda category: self.peak.by_category[category])
        remedies = {
            "parameters": "split the model (pipeline, tensor) or shard its parameters (fsdp)",
            "gradients": "split the model (pipeline, tensor) or shard its gradients (zero2, fsdp)",
            "optimizer_state": "shard the optimizer's state (zero1, zero2, fsdp), or use train.optimizer = momentum or sgd",
            "activations": "set train.checkpointing = full, cut the batch in pieces (split.data.num_accumulation_steps, more"
            " microbatches under 1f1b), or split it over more workers",
            "communication": "use smaller units or fewer pieces in flight: more stages, smaller microbatches",
        }
        remedy = remedies.get(largest, "use a smaller train.global_batch_size, or split it over more workers")
        return f"Most of it is {largest.replace('_', ' ')}: {remedy}."


class MemoryTracker(TorchDispatchMode):
    """Watches one step of a worker; used as a context.

    What is alive at its beginning is found by asking Python for all tensors. From then on every operation shows what it
    allocates, process groups show what they receive, and storages themselves say when they end. Categories: *activations*
    are made in forward passes, also recomputed ones; *communication* is what is received from other workers or gathered and
    scattered for them, but along the tensor axis: that is activations; *other* what backward passes and the optimizer need
    for a while (gradients of activations), and the batch.
    """

    def __init__(
        self, worker: WorkerModel, optimizer: torch.optim.Optimizer | None, recorder: Recorder, budget: int | None = None
    ) -> None:
        super().__init__()
        self.worker, self.optimizer, self.recorder, self.budget = worker, optimizer, recorder, budget
        self.marks: list[Mark] = []
        self._log: list[tuple[float, Allocation, int]] = []
        self._alive: dict[int, Allocation] = {}
        self._total = self._most = self._most_at = 0
        self._modules: list[str] = []
        self._spans: list[tuple[str, str]] = []
        self._module_of_backward = ""
        self._names = {module: name for name, module in worker.blocks.named_modules()}

    def __enter__(self) -> MemoryTracker:
        self._begin()
        self._handles = [
            register_module_forward_pre_hook(self._enter_module),
            register_module_forward_hook(self._leave_module, always_call=True),
        ]
        self._resize = torch.UntypedStorage.resize_
        torch.UntypedStorage.resize_ = self._resizing()  # type: ignore[method-assign, assignment]
        self.recorder.watcher = self
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.recorder.watcher = None
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]
        for handle in self._handles:
            handle.remove()
        self._settle_all()
        self._mark("end of step", "end of step")
        self._alive.clear()  # what ends from here on is none of this step's

    def _begin(self) -> None:
        """Notes what is alive. DDP's buckets are C++'s, but the gradients of the step before are views of them."""
        for name, parameter in self.worker.named_parameters():
            if parameter.grad is not None:
                self._settle(parameter.grad, "gradients", name)
        if self.optimizer is not None:
            self.optimizer.zero_grad()
        self._settle_all()
        gc.collect()
        for thing in gc.get_objects():
            if issubclass(type(thing), Tensor):
                self._see(thing, "other")
        self._mark("begin of step", "begin of step")

    def _settle_all(self) -> None:
        """Says of all that it knows for good what it is."""
        for name, parameter in self.worker.named_parameters():
            self._settle(parameter, "parameters", name)
        for name, parameter in self.worker.named_parameters():
            if parameter.grad is not None:
                self._settle(parameter.grad, "gradients", name)
        for name, buffer in self.worker.blocks.named_buffers():
            self._settle(buffer, "buffers", name)
        names = {parameter: name for name, parameter in self.worker.named_parameters()}
        updated = getattr(self.optimizer, "optim", self.optimizer)  # ZeRO-1 wraps the optimizer of this worker's part
        for parameter, state in updated.state.items() if updated is not None else ():
            for key, value in state.items():
                if isinstance(value, Tensor):
                    self._settle(value, "optimizer_state", f"{names.get(parameter, '')} {key}".strip())

    def _settle(self, tensor: Tensor, category: str, name: str) -> None:
        allocation = self._see(local(tensor), category)
        if allocation is None:
            return
        if not allocation.is_settled:
            allocation.category, allocation.module, allocation.is_settled = category, name, True
        elif allocation.module != name and allocation.category == category and tensor.grad is None:
            allocation.num_others += 1

    def _see(self, tensor: Tensor, category: str) -> Allocation | None:
        """The allocation behind a tensor; a new one is noted."""
        if _is_wrapper(tensor) or tensor.device.type != self.worker.device.type:
            return None
        return self._see_storage(tensor.untyped_storage(), category, tensor)

    def _see_storage(self, storage: torch.UntypedStorage, category: str, tensor: Tensor | None = None) -> Allocation:
        key, num_bytes = storage._cdata, storage.nbytes()
        allocation = self._alive.get(key)
        if allocation is None:
            reference = weakref.ref(storage, lambda _, key=key: self._end(key))
            shape, dtype = ((), torch.uint8) if tensor is None else (tuple(tensor.shape), tensor.dtype)
            allocation = Allocation(reference, category, self._module(), shape, str(dtype).removeprefix("torch."))
            self._alive[key] = allocation
        if num_bytes != allocation.num_bytes:
            self._note(allocation, num_bytes)
        return allocation

    def _end(self, key: int) -> None:
        if allocation := self._alive.pop(key, None):
            self._note(allocation, 0)

    def _note(self, allocation: Allocation, num_bytes: int) -> None:
        change = num_bytes - allocation.num_bytes
        allocation.num_bytes = num_bytes
        self._log.append((time.perf_counter(), allocation, change))
        self._total += change
        if self._total > self._most:
            self._most, self._most_at = self._total, len(self._log)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor | AsyncCollectiveTensor) for kind in types):
            return NotImplemented  # they take the operation apart and come back with what is really computed
        result = function(*args, **kwargs or {})
        if function is torch.ops.fsdp.chunk_cat.default:
            for gradient in args[0]:  # whole ones, kept until they are scattered
                self._received(gradient)
        category = "activations" if self._is_forward() else "other"
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._see(tensor, category)
        if self.budget is not None and self._most > self.budget:
            self._settle_all()
            raise MemoryBudgetExceeded(self.budget, self.peak())
        return result

    def _is_forward(self) -> bool:
        """Backward passes compute without gradients, but for what they recompute."""
        if torch._C._current_graph_task_id() != -1:
            return torch.is_grad_enabled()
        return not self._spans or self._spans[-1][0] == "forward"

    def moves(self, operation: str, axis: str | None, args: tuple[Any, ...]) -> None:
        """Called by a process group with what it is going to move, first what it writes to."""
        if axis == "tensor" or operation == "send":
            return
        for tensor in tree_leaves(args[:2] if operation == "reduce_scatter" else args[:1]):
            if isinstance(tensor, Tensor):
                self._received(tensor)

    def _received(self, tensor: Tensor) -> None:
        if allocation := self._see(tensor, "communication"):
            allocation.becomes("communication")

    def _resizing(self) -> Any:
        """FSDP lets go of gathered parameters, and has room for them again, by resizing their storages."""
        resize = self._resize

        def resize_(storage: torch.UntypedStorage, size: int) -> Any:
            result = resize(storage, size)
            self._see_storage(storage, "communication").becomes("communication")
            return result

        return resize_

    @contextmanager
    def span(self, kind: str, stage: int | None, microbatch: int | None, name: str | None) -> Iterator[None]:
        """What the worker does, from the recorder."""
        piece = f", microbatch {microbatch}" if microbatch is not None else ""
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
            if isinstance(output, Tensor) and output.grad_fn is not None and not self._recomputes():
                output.register_hook(lambda _, name=name: self._enter_backward(name))

    def _recomputes(self) -> bool:
        return torch._C._current_graph_task_id() != -1

    def _enter_backward(self, name: str) -> None:
        self._module_of_backward = name
        self._mark(f"backward of {name} begins{self._piece()}")

    def _piece(self) -> str:
        return self._spans[-1][1] if self._spans else ""

    def _module(self) -> str:
        if self._modules:
            return self._modules[-1]
        return self._module_of_backward if torch._C._current_graph_task_id() != -1 else ""

    def _where(self) -> str:
        kind, piece = self._spans[-1] if self._spans else ("step", "")
        module = self._module()
        if self._recomputes():
            kind = "recomputed forward" if self._modules else "backward"
        return kind + (f" of {module}" if module else "") + piece

    def _mark(self, event: str, where: str = "") -> None:
        self.marks.append(Mark(len(self._log), time.perf_counter(), event, where or self._where()))

    def peak(self) -> Peak:
        """The most that was alive at once, with what that was."""
        alive: Counter[Allocation] = Counter()
        for _, allocation, change in self._log[: self._most_at]:
            alive[allocation] += change
        by_category = dict.fromkeys(CATEGORIES, 0)
        for allocation, num_bytes in alive.items():
            by_category[allocation.category] += num_bytes
        largest = [allocation.as_dict(size) for allocation, size in alive.most_common(NUM_LARGEST) if size]
        where = next((m.where for m in reversed(self.marks) if m.position < self._most_at), "begin of step")
        return Peak(self._log[self._most_at - 1][0], where, by_category, largest)

    def rows(self) -> list[dict[str, Any]]:
        """What was alive at each event, and between two events the most if that is more than at both; the most of all is the
        event ``peak``."""
        alive, rows = dict.fromkeys(CATEGORIES, 0), list[dict[str, Any]]()

        def note(now: float, event: str, totals: dict[str, int]) -> None:
            rows.extend({"time": now, "event": event, "category": c, "bytes": b} for c, b in totals.items())

        for mark, following in zip(self.marks, [*self.marks[1:], None], strict=True):
            if mark is self.marks[0]:
                _add(alive, self._log[: mark.position])
            note(mark.time, mark.event, alive)
            if following is None:
                break
            if mark is self.marks[0] and self._most_at <= mark.position:
                note(mark.time, "peak", alive)
            between = self._log[mark.position : following.position]
            total = before = sum(alive.values())
            highest, most = 0, total
            for count, (_, _, change) in enumerate(between, start=1):
                total += change
                if total > most:
                    highest, most = count, total
            _add(alive, between[:highest])
            is_peak = mark.position < self._most_at <= following.position
            if is_peak or most > max(before, total):
                note(between[highest - 1][0], "peak" if is_peak else f"in {mark.where}", alive)
            _add(alive, between[highest:])
        return rows


def _add(alive: dict[str, int], entries: Iterable[tuple[float, Allocation, int]]) -> None:
    for _, allocation, change in entries:
        alive[allocation.category] += change


def _is_wrapper(tensor: Tensor) -> bool:
    """Tensors without memory of their own."""
    return isinstance(tensor, DTensor | AsyncCollectiveTensor | torch._subclasses.FakeTensor) or tensor.is_meta or tensor.is_sparse
