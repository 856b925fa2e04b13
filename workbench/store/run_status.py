"""The state of a run and its status, the content of ``status.json``."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from workbench.store.json_record import Record
from workbench.store.processes import Origin, ProcessIdentity


class RunState(StrEnum):
    """The state of a run; the terminal states are final. ``docs/store.md`` says which process writes which."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"

    @property
    def is_terminal(self) -> bool:
        """Whether the run has ended."""
        return self in TERMINAL


TERMINAL = (RunState.FINISHED, RunState.FAILED, RunState.CANCELLED, RunState.LOST)


@dataclass(frozen=True)
class WorkerStatus(Record):
    """The process of a worker."""

    rank: int
    pid: int
    device: str
    """``cpu`` or ``cuda:1``."""


@dataclass(frozen=True)
class RunStatus(Record):
    """``status.json``: what the run does now."""

    state: RunState
    message: str = ""
    """What the run waits for, or why it ended."""
    supervisor: ProcessIdentity | None = None
    """None until it has started."""
    submitted: Origin = field(default_factory=Origin)
    """Where and when the run was submitted."""
    workers: tuple[WorkerStatus, ...] = ()
    step: int | None = None
    """The last step that rank 0 reported."""
    heartbeat: float | None = None
    """When the supervisor last wrote this, in seconds since 1970."""

    @classmethod
    def upgraded(cls, values: dict[str, Any]) -> dict[str, Any]:
        """The supervisor was once named ``owner``."""
        return {**values, "supervisor": values["owner"]} if "owner" in values else values
