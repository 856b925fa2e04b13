"""The memory that a worker may use: its part of this machine, the memory budget of the spec, or the memory of a device."""

from __future__ import annotations

from dataclasses import dataclass

import psutil

from workbench.analysis.byte_units import in_bytes
from workbench.errors import SpecError
from workbench.messages import counted
from workbench.plan.plan import Plan, gpu_memory_bytes
from workbench.spec.units import DATA_SHEET_SIZE

_GB = 10**9
DEVICES = {
    "RTX 4090, 24 GB": 24 * _GB,  # NVIDIA Ada GPU architecture whitepaper
    "L40S, 48 GB": 48 * _GB,  # NVIDIA L40S data sheet
    "A100, 40 GB": 40 * _GB,  # NVIDIA A100 data sheet
    "A100, 80 GB": 80 * _GB,  # the same
    "H100, 80 GB": 80 * _GB,  # NVIDIA H100 data sheet
    "H200, 141 GB": 141 * _GB,  # NVIDIA H200 data sheet
    "B200, 192 GB": 192 * _GB,  # NVIDIA Blackwell architecture technical brief
    "MI300X, 192 GB": 192 * _GB,  # AMD Instinct MI300X data sheet
}
"""Device → memory of its data sheet, counted in decimal GB: the least that it can mean."""
MACHINE, BUDGET = "this machine", "memory budget"


@dataclass(frozen=True)
class DeviceMemory:
    """Memory that a worker may use."""

    name: str
    bytes_per_worker: int

    def __str__(self) -> str:
        return f"{self.name}: {in_bytes(self.bytes_per_worker)} per worker"


def devices(plan: Plan) -> list[str]:
    """Returns the names that ``device_memory`` knows for a plan; the first is the default."""
    budget = [BUDGET] if plan.spec.measure.memory_budget_bytes else []
    machine = [MACHINE] if _of_machine(plan) else []
    return [*budget, *machine, *DEVICES]


def device_memory(name: str, plan: Plan) -> DeviceMemory:
    """Returns the memory of a named device, or of a size such as ``80 GB``.

    Raises:
        SpecError: neither, or workers on GPUs that this machine does not have.
    """
    if name == MACHINE:
        if (size_here := _of_machine(plan)) is None:
            available = f"it has {counted(len(gpu_memory_bytes()), 'GPU')} for {counted(plan.num_workers, 'worker')}"
            raise SpecError("device", f"the memory of a worker on this machine is not known: {available}")
        return DeviceMemory(MACHINE, size_here)
    if name == BUDGET and plan.spec.measure.memory_budget_bytes:
        return DeviceMemory(BUDGET, plan.spec.measure.memory_budget_bytes)
    if name in DEVICES:
        return DeviceMemory(name, DEVICES[name])
    try:
        size = DATA_SHEET_SIZE.parse(name)
    except ValueError as error:
        raise SpecError("device", f"{error}, but got {name!r}") from None
    return DeviceMemory(name, int(float(size)))


def exceeded(plan: Plan, bytes_of_workers: dict[int, int]) -> list[str]:
    """Returns why a run of this plan is expected not to fit, one sentence per reason; empty if it fits.

    Args:
        bytes_of_workers: Expected memory by rank.
    """
    rank, largest = max(bytes_of_workers.items(), key=lambda item: item[1])
    reasons, budget = [], plan.spec.measure.memory_budget_bytes
    if budget and largest > budget:
        reasons.append(f"Worker {rank} needs {in_bytes(largest)}, but measure.memory_budget_bytes is {in_bytes(budget)}.")
    if plan.spec.launch.device == "cuda":
        gpus = gpu_memory_bytes()
        full = [rank for rank, needed in bytes_of_workers.items() if rank < len(gpus) and needed > gpus[rank]]
        if full:
            first = full[0]
            reasons.append(
                f"Worker {first} needs {in_bytes(bytes_of_workers[first])}, but GPU {first} has {in_bytes(gpus[first])}."
            )
        return reasons
    total, together = psutil.virtual_memory().total, sum(bytes_of_workers.values())
    if together > total:
        workers = counted(len(bytes_of_workers), "worker")
        reasons.append(f"{workers} need {in_bytes(together)} together, but this machine has {in_bytes(total)}.")
    return reasons


def _of_machine(plan: Plan) -> int | None:
    """Returns the memory that each worker may use on this machine: its part of the host's, or that of the smallest GPU of the
    run; None if there are fewer GPUs than workers."""
    if plan.spec.launch.device != "cuda":
        return int(psutil.virtual_memory().total) // plan.num_workers
    gpus = gpu_memory_bytes()
    return min(gpus[: plan.num_workers]) if len(gpus) >= plan.num_workers else None
