"""The step loop, of training or inference: warm-up, timed, trace, memory and profiler steps, kept apart."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.profiler import ProfilerActivity, profile

from workbench.plan.batch_modules import num_samples
from workbench.plan.plan import Plan
from workbench.plan.steps import step_kinds
from workbench.runtime.batches import Batches
from workbench.runtime.build import local
from workbench.runtime.clipping import clip_gradients
from workbench.runtime.cpu_contention import Load
from workbench.runtime.flops import CountedFlops
from workbench.runtime.memory.allocation_log import Peak, kept_activations
from workbench.runtime.memory.tracker import MemoryTracker
from workbench.runtime.optimizer import make_optimizer, set_learning_rate
from workbench.runtime.tracing.recorder import Recorder
from workbench.strategies.worker_model import StepResult, WorkerModel


@dataclass
class Measurements:
    """What the loop measured on this worker; times on the machine's monotonic clock."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    memory: list[dict[str, Any]] = field(default_factory=list)
    peak_tensors: list[dict[str, Any]] = field(default_factory=list)
    peak_memory: Peak | None = None
    """Largest peak of the allocated memory among the memory steps."""
    allocator_figures: dict[str, Any] = field(default_factory=dict)
    """Figures of the allocator in the step of that peak."""
    held_memory: dict[str, int] | None = None
    """Bytes by category at the end of the last memory step."""
    kept_activation_bytes: int | None = None
    """Maximum bytes of activations at the beginning of a backward pass of the last memory step; None if it had none."""
    parameters: int = 0
    parameter_bytes: int = 0
    gradient_bytes: int = 0
    optimizer_state_bytes: int = 0
    dropped_tokens: float | None = None
    """Dropped assignments of tokens to local experts per step, mean over the timed steps; None without experts."""
    load: Load | None = None
    """Processor time during the timed steps."""
    counted_flops: int | None = None
    """Floating-point operations of this worker in the first warm-up step, as torch counts them; None without warm-up steps, or
    if blocks are compiled, since torch then sees no kernels."""


def run_steps(
    plan: Plan,
    worker: WorkerModel,
    batches: Batches,
    recorder: Recorder,
    on_step: Callable[..., None],
    profile_to: Path | None = None,
    control: Any = None,
) -> Measurements:
    """Runs all steps; ``on_step(kind, step, num_steps, loss, duration_s)`` is called after each. torch's own trace of a
    profiler step is written to ``profile_to``. In inference the workers of the group ``control`` begin each batch together.

    A step's duration holds forward, backward, communication and optimizer; fetching the batch is outside it, and has a
    column of its own.
    """
    record = Measurements()
    options, measure = plan.spec.train, plan.spec.measure
    optimizer = make_optimizer(worker, options) if worker.trains else None
    has_tokens = plan.dataset.summary().tokens_per_sample > 0
    kinds = list(step_kinds(plan.spec))
    dropping: list[Any] = [module for module in worker.blocks.modules() if hasattr(module, "dropped")]  # mixtures of experts
    num_dropped = []
    first, last = kinds.index("timed"), len(kinds) - 1 - kinds[::-1].index("timed")
    for step, kind in enumerate(kinds):
        if step == first:
            before = Load.now()
        fetch_started = time.perf_counter()
        inputs, targets = batches.worker_batch(step, worker)
        data_s = time.perf_counter() - fetch_started
        worker.begin_step(step)
        for module in dropping:
            module.dropped = 0
        if optimizer is not None:
            set_learning_rate(optimizer, options, step)
        tracker = MemoryTracker(worker, optimizer, recorder, measure.memory_budget_bytes) if kind == "memory" else None
        if control is not None and not worker.trains:
            # Otherwise a worker would start the next batch while others compute this one, and a step would measure throughput.
            dist.barrier(group=control)
        profiled = _torch_profile(profile_to, worker.device) if kind == "profiler" and profile_to else nullcontext()
        counts_flops = step == 0 and kind == "warmup" and not options.compile
        with tracker or profiled, CountedFlops() if counts_flops else nullcontext() as counter:
            recorder.begin_step(step, tracing=kind == "trace")
            measured = _measured_step(worker, optimizer, recorder, inputs, targets, options.max_gradient_norm)
        if counter is not None:
            record.counted_flops = counter.get_total_flops()
        if kind == "timed":
            num_dropped.append(sum(module.dropped for module in dropping))
        if tracker is not None:
            _keep_memory(record, tracker, step)
        count, num_tokens = num_samples(inputs), targets.numel() if has_tokens else None
        if plan.spec.generates:
            num_tokens = count * plan.spec.inference.num_new_tokens
        counts = {"num_samples": count, "num_tokens": num_tokens}
        record.steps.append({"step": step, "kind": kind, **counts, "data_s": data_s, **measured})
        if step == last:
            record.load = Load.now().since(before)
        on_step(kind=kind, step=step, num_steps=len(kinds), loss=measured["loss"], duration_s=measured["duration_s"])
    record.dropped_tokens = mean(num_dropped) if dropping else None
    _record_sizes(record, worker, optimizer)
    return record


def _measured_step(
    worker: WorkerModel,
    optimizer: torch.optim.Optimizer | None,
    recorder: Recorder,
    inputs: Any,
    targets: Any,
    max_gradient_norm: float | None,
) -> dict[str, Any]:
    """Takes a step that the recorder has begun, and ends it there. Returns the columns of ``steps`` that are measured in it. The
    loss is read, and on GPUs all kernels have run, before the clock stops."""
    start = time.perf_counter()
    result = take_step(worker, optimizer, inputs, targets, max_gradient_norm)
    loss = None if result.loss is None else float(result.loss)
    if worker.device.type == "cuda":
        torch.cuda.synchronize(worker.device)
    duration = time.perf_counter() - start
    return {
        "start_s": start,
        "duration_s": duration,
        "loss": loss,
        "time_to_first_token_s": None if result.first_token_at is None else result.first_token_at - start,
        **recorder.end_step(),
    }


def take_step(
    worker: WorkerModel,
    optimizer: torch.optim.Optimizer | None,
    inputs: Any,
    targets: Any,
    max_gradient_norm: float | None = None,
) -> StepResult:
    """Runs one step as it is timed: forward, backward and optimizer update, or only forward in inference. A worker without
    trained parameters has no optimizer."""
    if not worker.trains:
        # Under inference_mode DTensor (torch 2.13) decomposes linear layers and communicates more than necessary.
        has_cut = any(isinstance(p, DTensor) for p in worker.blocks.parameters())
        with torch.no_grad() if has_cut else torch.inference_mode():
            return worker.compute(inputs, targets)
    if optimizer is not None:
        with worker.span("optimizer", name="zero_grad"):
            optimizer.zero_grad()
    result = worker.compute(inputs, targets)
    with worker.span("optimizer"):
        if max_gradient_norm is not None:
            clip_gradients(worker, max_gradient_norm)
        if optimizer is not None:
            optimizer.step()
    return result


def _keep_memory(record: Measurements, tracker: MemoryTracker, step: int) -> None:
    peak, rows = tracker.log.peak(), tracker.log.rows()
    record.memory += [{"step": step, **row} for row in rows]
    record.held_memory = tracker.log.bytes_at_end()
    record.kept_activation_bytes = kept_activations(rows)
    record.peak_tensors += [{"step": step, **row} for row in peak.largest]
    if record.peak_memory is None or peak.num_bytes > record.peak_memory.num_bytes:
        record.peak_memory, record.allocator_figures = peak, tracker.allocator_figures()


def _record_sizes(record: Measurements, worker: WorkerModel, optimizer: torch.optim.Optimizer | None) -> None:
    """Records the parameters, gradients and optimizer state that this worker holds after the last step, in bytes."""
    for _, parameter in worker.named_parameters():
        record.parameters += local(parameter).numel()
        record.parameter_bytes += local(parameter).nbytes
        if parameter.grad is not None:
            record.gradient_bytes += local(parameter.grad).nbytes
    updated = getattr(optimizer, "optim", optimizer)  # ZeRO-1 wraps the optimizer of this worker's part
    for state in updated.state.values() if updated is not None else ():
        record.optimizer_state_bytes += sum(local(t).nbytes for t in state.values() if isinstance(t, torch.Tensor))


@contextmanager
def _torch_profile(path: Path, device: torch.device) -> Iterator[None]:
    """Profiles the block with torch.profiler, shapes included, and writes its Chrome trace to ``path`` (``.json.gz``)."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities, record_shapes=True) as profiler:
        yield
    path.parent.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(path))
