"""Typed records of the JSON files of a run directory; ``docs/store.md`` describes the files."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from workbench.bounds import MAX_WORKERS
from workbench.store.json_record import Record


@dataclass(frozen=True)
class Expected(Record):
    """The results of the formulas, as of ``Plan.expected_record``."""

    parameters_per_worker: tuple[int, ...] = ()
    updated_parameters_per_worker: tuple[int, ...] = ()
    """Parameters that the optimizer of each worker updates."""
    communication: tuple[dict[str, Any], ...] = ()
    """Of a step: fields of ``ExpectedCommunication`` and ``trace_share``, the share of trace steps that have it."""
    flops_per_step: int | None = None
    no_cache: str = ""
    """Why a generation computes all positions for each token, a clause; empty if it has a key/value cache."""
    memory_per_worker: tuple[dict[str, int | None], ...] | None = None
    """Fields of ``ExpectedMemory``. None: an earlier version did not record them."""

    @classmethod
    def upgraded(cls, values: dict[str, Any]) -> dict[str, Any]:
        """The communication was once named ``transfers``."""
        return {**values, "communication": values["transfers"]} if "transfers" in values else values


@dataclass(frozen=True, kw_only=True)
class RunRecord(Record):
    """``run.json``: what was decided when the run was submitted."""

    run_id: str
    name: str
    mode: str
    model: str
    dataset: str
    split: str
    """Label of the split: ``dp2-tp2``."""
    num_workers: int
    device: str
    torch_version: str
    created_at: float
    """Seconds since 1970."""
    baseline_run_id: str | None
    """The run on one worker with as many threads as each worker of this one; its own id if it is this."""
    same_cores_baseline_run_id: str | None = None
    """The run on one worker with as many threads as all workers of this one together."""
    baseline_key: str | None = None
    """Equal for runs on one worker that can replace one another as a baseline."""
    threads_per_worker: int
    timeout_s: float = 300.0
    num_cores: int
    mesh: dict[str, int]
    """Axis → size, outer to inner."""
    expected: Expected
    block_times_s: dict[str, float] | None = None
    """Measured time of each block, with ``partition = "time"``."""
    link: str | None = None
    """Label of the emulated link."""
    link_notes: tuple[str, ...] = ()
    max_other_load_cores: float = 0.2
    """Load of other programs from which on the times count as disturbed."""
    max_calibration_age_days: float = 30.0
    """Age from which on a calibration counts as stale."""
    waits_for_quiet: bool = False
    """Whether it starts only once other programs load the machine less than that."""
    started_as_baseline: bool = True
    """Whether it ends when no other run needs it; earlier versions did not record it."""

    def problem(self) -> str:
        if not 1 <= self.num_workers <= MAX_WORKERS:
            return f"num_workers: {self.num_workers} is not from 1 to {MAX_WORKERS}"
        if not all(1 <= size <= MAX_WORKERS for size in self.mesh.values()):
            return f"mesh: a size is not from 1 to {MAX_WORKERS}"
        return "" if math.isfinite(self.created_at) else f"created_at: {self.created_at} is not finite"

    @property
    def backend(self) -> str:
        """The backend of its process groups, which follows from the device; earlier versions recorded it."""
        return "nccl" if self.device == "cuda" else "gloo"

    @property
    def baseline_ids(self) -> tuple[str, ...]:
        """The other runs that this one is compared with and waits for."""
        ids = (self.baseline_run_id, self.same_cores_baseline_run_id)
        return tuple(other for other in dict.fromkeys(ids) if other and other != self.run_id)


@dataclass(frozen=True)
class Environment(Record):
    """``environment.json``: versions and machine; None where an earlier version did not record it."""

    workbench_version: str | None = None
    torch_version: str | None = None
    python_version: str | None = None
    platform: str | None = None
    machine: str | None = None
    cpu: str | None = None
    num_cores: int | None = None


@dataclass(frozen=True)
class CodeRecord(Record):
    """``code/hashes.json``: the code of the user's own model, as the run executes it."""

    source: str
    """``my_model.py:build``, or ``torchvision.models:resnet18``, of which only the version is recorded."""
    sha256: str
    """Of all of it, equal for equal code."""
    files: dict[str, str]
    """Path in ``code/`` → SHA-256."""
    distribution: str | None = None
    """Installed distribution with the module of the model; None for a file."""
    version: str | None = None


@dataclass(frozen=True)
class Labels(Record):
    """``labels.json``: what people changed; None for what nobody changed."""

    name: str | None = None
    tags: tuple[str, ...] | None = None
    note: str | None = None
    group: str | None = None
    """Name that runs submitted together share, such as all splits of four workers."""
    deleted_at: float | None = None
    """Seconds since 1970; None for a run that is in the lists."""

    @classmethod
    def upgraded(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Tags were once a text, separated by commas."""
        tags = values.get("tags")
        return {**values, "tags": [tag for tag in tags.split(", ") if tag]} if isinstance(tags, str) else values


@dataclass(frozen=True)
class ExceededBudget(Record):
    """What a worker held when it exceeded its memory budget."""

    budget_bytes: int
    bytes: int
    event: str
    by_category: dict[str, int]
    largest_tensors: tuple[dict[str, Any], ...]
    """Rows of ``peak_tensors``."""


@dataclass(frozen=True)
class RunError(Record):
    """``error.json``: why the run failed."""

    rank: int | None
    """The worker that caused the failure; None for the supervisor."""
    exception: str
    step: int | None = None
    traceback: str = ""
    operations: tuple[str, ...] = ()
    """The last communication operations of the worker."""
    advice: str = ""
    memory: ExceededBudget | None = None
    last_lines: tuple[str, ...] = ()
    """Of the log of the worker."""
